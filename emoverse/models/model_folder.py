"""Check that a folder is a transformers-native InternVL that can be loaded without running code from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from emoverse.errors import UserError
from emoverse.models.convert.checkpoint import read_header, read_json, weight_files
from emoverse.models.convert.native import check_language_model

_CODE: Final = (".py", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5", ".so")
_CONVERT: Final = "turn it into a native model with `emoverse convert`"


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
    check_language_model(config, str(folder / "config.json"))
    for path in sorted(folder.glob("*.json")):  # a tokenizer or a processor can request code, too
        if '"auto_map"' in path.read_text("utf-8"):
            raise UserError(f"{path.name} requests remote code (auto_map)", place=str(folder), remedy=_CONVERT)
    for name in weight_files(folder):
        read_header(folder / name)
    return config


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model folder's config.json; raise UserError when it is missing or not a JSON object."""
    if not (folder / "config.json").is_file():
        raise UserError("no config.json: not a model folder", place=str(folder), remedy="give a model's folder")
    return read_json(folder / "config.json")
