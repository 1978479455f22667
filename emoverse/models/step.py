"""Publish the model that stage 1 starts from: the tiny one, made here, or InternVL2 itself."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from emoverse.collector import uncollected
from emoverse.manifest import publish
from emoverse.models.adopt import adopt
from emoverse.params import TINY, BaseModelParams, MediaParams, plain
from emoverse.steps import CODE

SPELLED: Final = 8000
"""Lessons the tokenizer is trained on; more change little."""


def base_model(out: Path, params: BaseModelParams, media: MediaParams) -> None:
    """Publish the checkpoint of ``params.source``, or build and pretrain the tiny InternVL that stands in for one.

    The tiny one sees drawn faces of people who are not in the sample and sentences of its own generator, never a clip,
    a transcript, a question or a label of a corpus. The same seed gives the same bytes on one machine.
    """
    if params.source != TINY:
        adopt(Path(params.source), out, media)
        return
    settings = {**plain(params), "media": plain(media)}
    with publish(out, step="base-model", params=settings, inputs={}, code=CODE["base-model"],
                 libraries=("torch", "transformers", "tokenizers")) as draft:  # fmt: skip
        facts = make_base(draft.path / "model", params, media)
        draft.seeds = {"base-model": params.seed}
        draft.facts = facts


def make_base(folder: Path, params: BaseModelParams, media: MediaParams) -> dict[str, Any]:
    """Write a pretrained model folder; return what was seen and learned: counts and the loss at start and end."""
    from emoverse.models.lessons import write_lessons
    from emoverse.models.pretraining_faces import draw_face
    from emoverse.models.tokenizer import known_words, train_tokenizer

    with uncollected():
        from emoverse.models.pretrain import learn_faces, learn_words
        from emoverse.models.tiny import build_model, build_processor, save_folder

    draw = partial(draw_face, seed=params.seed, n_frames=media.frames, media=media)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        faces = list(pool.map(draw, range(params.faces), chunksize=64))
    lessons = [
        lesson
        for epoch in range(params.epochs)
        for lesson in write_lessons(faces, params.sentences, params.seed, epoch)
    ]
    spelling = [" ".join(known_words())] * 20  # often enough that whole words win over their parts
    told = [text for lesson in lessons[:SPELLED] for text in (lesson.system, lesson.question, lesson.answer)]
    tokenizer = train_tokenizer(told + spelling)
    model = build_model(tokenizer, media, params.seed)
    learn_faces(model, faces, params.face_epochs, params.seed)
    losses = learn_words(model, tokenizer, faces, lessons, params.seed)
    save_folder(model, build_processor(tokenizer, media), folder)
    tail = max(1, len(losses) // 20)
    return {
        "faces": len(faces),
        "lessons": len(lessons),
        "steps": len(losses),
        "parameters": sum(tensor.numel() for tensor in model.parameters()),
        "first_loss": round(sum(losses[:tail]) / tail, 3),
        "last_loss": round(sum(losses[-tail:]) / tail, 3),
    }
