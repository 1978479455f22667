"""Check that a folder is a transformers-native InternVL that can be loaded without running code from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from emoverse.errors import UserError

_CODE: Final = (".py", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5", ".so")
_CONVERT: Final = "turn it into a native model with `emoverse convert`"
_AGAIN: Final = "copy the whole folder again"


def check_model_folder(folder: Path) -> dict[str, Any]:
    """Return config.json of a native InternVL with complete safetensors files and without code or pickles.

    Raises UserError naming the file that is missing, cut off, or could run code, and what to do.
    """
    config = read_config(folder)
    for path in sorted(folder.rglob("*")):
        if path.suffix in _CODE:
            remedy = "convert the original checkpoint with `emoverse convert`, and use only weights that you trust"
            raise UserError(f"{path.name} could run code when loaded, refused", place=str(folder), remedy=remedy)
    if config.get("model_type") != "internvl":
        problem = f"its model_type is {config.get('model_type')!r}: not a native InternVL"
        raise UserError(problem, place=str(folder), remedy=_CONVERT)
    for path in sorted(folder.glob("*.json")):  # a tokenizer or a processor can request code, too
        if '"auto_map"' in path.read_text("utf-8"):
            raise UserError(f"{path.name} requests remote code (auto_map)", place=str(folder), remedy=_CONVERT)
    _check_weights(folder)
    return config


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model folder's config.json; raise UserError when there is none or it is not a JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError("no config.json: not a model folder", place=str(folder), remedy="give a model's folder")
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"not valid JSON ({error})", place=str(path), remedy=_AGAIN) from None
    if not isinstance(config, dict):
        raise UserError("holds no JSON object", place=str(path), remedy=_AGAIN)
    return config


def _check_weights(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    listed = json.loads(index.read_text("utf-8"))["weight_map"].values() if index.is_file() else ["model.safetensors"]
    wanted = sorted(set(listed))
    if missing := [name for name in wanted if not (folder / name).is_file()]:
        raise UserError(f"weights are missing: {', '.join(missing)}", place=str(folder), remedy=_AGAIN)
    for name in wanted:
        try:
            with safe_open(folder / name, "pt"):
                pass
        except SafetensorError as error:
            raise UserError(
                f"not a whole safetensors file ({error})", place=str(folder / name), remedy=_AGAIN
            ) from None
