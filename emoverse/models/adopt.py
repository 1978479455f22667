"""Take an InternVL2 checkpoint as the base model: an original one is converted, a native one copied."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from emoverse.errors import UserError
from emoverse.manifest import open_raw, publish
from emoverse.models.native import check_model_folder, read_config
from emoverse.params import MediaParams, plain
from emoverse.steps import CODE


def adopt(source: Path, out: Path, media: MediaParams) -> None:
    """Publish ``out/model``, a native InternVL, from the checkpoint in ``source``.

    ``source`` is recorded by its content, as a raw corpus is. Raises UserError when it is not here, cannot be taken, or
    sees frames of another size than ``media.size``.
    """
    if not source.is_dir():
        remedy = (
            f"download InternVL2's weights where there is network (`hf download OpenGVLab/{source.name} --local-dir "
            f"{source.name}`), copy that folder here and `dvc add` it, or `dvc pull` it, or set base_model.source"
        )
        raise UserError("the base model's checkpoint is not here", place=str(source), remedy=remedy)
    config = read_config(source)
    original = config.get("model_type") == "internvl_chat"
    conversion = _prepare(source) if original else None
    if conversion is None:
        check_model_folder(source)
    _check_size(config, media, place=str(source / "config.json"))
    weights = open_raw(source, name="weights")
    # The folder's name and place decide nothing; its content is an input.
    settings = {"media": plain(media)}
    with publish(out, step="base-model", params=settings, inputs={"weights": weights}, code=CODE["base-model"],
                 libraries=("torch", "transformers", "tokenizers", "safetensors")) as draft:  # fmt: skip
        if conversion is None:
            shutil.copytree(source, draft.path / "model", ignore=shutil.ignore_patterns(".*"))
            return
        from emoverse.models.convert.step import facts, write_model

        (draft.path / "model").mkdir()
        write_model(conversion, draft.path / "model")
        draft.facts = facts(conversion)


def _prepare(source: Path) -> Any:
    from emoverse.models.convert.step import prepare

    return prepare(source)


def _check_size(config: dict[str, Any], media: MediaParams, *, place: str) -> None:
    found = config.get("force_image_size") or config["vision_config"].get("image_size", 448)
    side = int(found[0] if isinstance(found, list) else found)
    if side != media.size:
        remedy = f"set media.size to {side} in params.yaml (and crop: squash, colour: rgb for InternVL2), and validate"
        raise UserError(f"the model sees {side} pixels, media.size is {media.size}", place=place, remedy=remedy)
