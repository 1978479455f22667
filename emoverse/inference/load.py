"""Open a model with one of the engines; nothing heavy is imported before the engine is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from emoverse.errors import UserError
from emoverse.inference.engine import Engine
from emoverse.inference.prepare import Frames

EngineName = Literal["torch", "onnx"]


def open_engine(engine: EngineName, folder: Path, frames: Frames, *, batch_size: int) -> Engine:
    """Return an engine over a step's output folder and frames by reference.

    Raises UserError when the folder holds no model of the engine's kind.
    """
    if engine == "onnx":
        from emoverse.inference.onnx_engine import onnx_engine

        return onnx_engine(folder, frames, batch_size=batch_size)
    from emoverse.inference.torch_engine import torch_engine

    return torch_engine(model_folder(folder), frames, batch_size=batch_size)


def model_folder(folder: Path) -> Path:
    """Return the model inside a step's output (``model/``), or the folder itself where it is a model."""
    for place in (folder / "model", folder):
        if (place / "config.json").is_file():
            return place
    remedy = "give the folder of `emoverse train` or `emoverse base-model` (an export needs --engine onnx)"
    raise UserError("it holds no model", place=str(folder), remedy=remedy)
