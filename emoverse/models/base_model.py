"""Publish the model that stage 1 starts from: the tiny one, made here, or InternVL2 itself."""

from __future__ import annotations

import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.manifest import publish
from emoverse.config import TINY, BaseModelParams, MediaParams, missing_base_model, plain
from emoverse.errors import UserError
from emoverse.models.architecture import check_model_folder, read_config
from emoverse.progress import progress

TOKENIZER_EXAMPLES: Final = 8000
"""How many examples the tokenizer is trained on; more change little."""


def base_model(out: Path, params: BaseModelParams, media: MediaParams) -> None:
    """Publish the checkpoint of ``params.source``, or build and pretrain the tiny InternVL that stands in for one.

    The tiny model is trained on drawn faces of people who are not in the sample and on generated sentences, never on a
    clip, transcript or question of a corpus. The same seed gives the same bytes on one machine.
    """
    if params.source != TINY:
        publish_checkpoint(Path(params.source), out, media)
        return
    settings = {**plain(params), "media": plain(media)}
    with publish(out, step="base-model", params=settings, inputs={}) as draft:  # fmt: skip
        facts = make_base(draft.path / "model", params, media)
        draft.seeds = {"base-model": params.seed}
        draft.facts = facts


def make_base(folder: Path, params: BaseModelParams, media: MediaParams) -> dict[str, Any]:
    """Pretrain the tiny model into ``folder``; return counts and the loss at start and end."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from emoverse.models.pretraining_data import draw_face, make_examples
    from emoverse.models.pretraining_dialogues import vocabulary
    from emoverse.models.tiny import (
        build_model,
        build_processor,
        pretrain_language,
        pretrain_vision,
        save_folder,
        train_tokenizer,
    )

    torch.set_num_threads(params.threads)
    disable_progress_bar()  # of the weights written, which takes no time
    draw = partial(draw_face, seed=params.seed, n_frames=media.frames, media=media)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        faces = []
        with progress("base-model: faces drawn", params.faces, unit="clips") as advance:
            for face in pool.map(draw, range(params.faces), chunksize=64):
                faces.append(face)
                advance()
    examples = [
        example
        for epoch in range(params.epochs)
        for example in make_examples(faces, params.sentences, params.seed, epoch, params.dialogues)
    ]
    known = [" ".join(vocabulary())] * 20  # often enough that whole words win over their parts
    texts = [text for each in examples[:TOKENIZER_EXAMPLES] for text in (each.system, each.question, each.answer)]
    tokenizer = train_tokenizer(texts + known)
    model = build_model(tokenizer, media, params.seed)
    pretrain_vision(model, faces, params.face_epochs, params.seed)
    losses = pretrain_language(model, tokenizer, faces, examples, params.seed)
    save_folder(model, build_processor(tokenizer, media), folder)
    tail = max(1, len(losses) // 20)
    return {
        "faces": len(faces),
        "examples": len(examples),
        "steps": len(losses),
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        "first_loss": round(sum(losses[:tail]) / tail, 3),
        "last_loss": round(sum(losses[-tail:]) / tail, 3),
    }


def publish_checkpoint(source: Path, out: Path, media: MediaParams) -> None:
    """Publish ``out/model``, a native InternVL, from the checkpoint in ``source``.

    An original checkpoint and a native one as it was published are converted; a folder in this project's form is
    copied. ``source`` is recorded by its content, as a raw corpus is. Raises UserError when it is missing, cannot be
    used, or expects frames of another size than ``media.size``.
    """
    from emoverse.models.architecture import is_complete
    from emoverse.models.convert import facts, open_weights, plan_conversion, write_model

    if not source.is_dir():
        raise missing_base_model(source)
    if read_config(source).get("model_type") == "internvl":
        check_model_folder(source)
    conversion = plan_conversion(source)
    if (side := conversion.architecture.image_size) != media.size:
        remedy = f"set media.size to {side} in params.yaml (and crop: squash, colour: rgb for InternVL), and validate"
        problem = f"the model expects {side} pixels, media.size is {media.size}"
        raise UserError(problem, place=str(source / "config.json"), remedy=remedy)
    weights = open_weights(source, name="weights")
    # The folder's name and place decide nothing; its content is an input.
    settings = {"media": plain(media)}
    with publish(out, step="base-model", params=settings, inputs={"weights": weights}) as draft:
        if conversion.architecture.layout == "native" and is_complete(source):
            for tensor in conversion.checkpoint.entries:
                conversion.checkpoint.read(tensor)  # raises for NaN and infinite values
            shutil.copytree(source, draft.path / "model", ignore=shutil.ignore_patterns(".*"))
        else:
            (draft.path / "model").mkdir()
            write_model(conversion, draft.path / "model")
        draft.facts = facts(conversion)
