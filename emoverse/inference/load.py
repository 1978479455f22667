"""Open a model with one of the engines; nothing heavy is imported before the engine is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from emoverse.collector import uncollected
from emoverse.errors import UserError
from emoverse.inference.encode import Ids, Row
from emoverse.inference.engine import Progress
from emoverse.inference.prepare import Frames

EngineName = Literal["torch", "onnx", "vllm"]


class Answers(Protocol):
    """What asks a model, whatever runs it: ``Engine`` says what its functions return."""

    def judged(
        self, rows: Sequence[Row], answers: Sequence[str], progress: Progress | None = None
    ) -> tuple[NDArray[np.float64], Ids]:
        """Return (rows, answers) log-probabilities, and (rows,) the answer taken."""

    def generate(self, rows: Sequence[Row], max_new_tokens: int, progress: Progress | None = None) -> list[str]:
        """Return the greedy reply to each row."""


def open_engine(engine: EngineName, folder: Path, frames: Frames, *, batch_size: int) -> Answers:
    """Return an engine over a step's output folder and frames by reference.

    Raises UserError when the folder holds no model of the engine's kind, or the engine cannot run here.
    """
    if engine == "vllm":
        from emoverse.inference.vllm_engine import vllm_engine

        return vllm_engine(model_folder(folder), frames, batch_size=batch_size)
    if engine == "onnx":
        from emoverse.inference.onnx_engine import onnx_engine

        return onnx_engine(folder, frames, batch_size=batch_size)
    with uncollected():
        from emoverse.inference.torch_engine import torch_engine

    return torch_engine(model_folder(folder), frames, batch_size=batch_size)


def model_folder(folder: Path) -> Path:
    """Return the model inside a step's output (``model/``), or the folder itself where it is a model."""
    for place in (folder / "model", folder):
        if (place / "config.json").is_file():
            return place
    remedy = "give the folder of `emoverse train` or `emoverse base-model` (an export needs --engine onnx)"
    raise UserError("it holds no model", place=str(folder), remedy=remedy)
