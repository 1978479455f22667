"""Choose the questions that an export is checked on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emoverse.inference.settings import Settings
from emoverse.inference.testsets import EvaluationSet, Row, read_sets

PER_SET: Final = 4  # rows whose logits are compared


def asked_sets(amt: Path, most: int) -> list[EvaluationSet]:
    """Return every test set of an AMT folder, cut to ``most`` rows evenly spread over it."""
    return [replace(one, rows=tuple(_spread(one.rows, most))) for one in read_sets(amt)]


def asked_rows(sets: Sequence[EvaluationSet]) -> list[Row]:
    """Return a few rows of every test set."""
    return [row for one in sets for row in _spread(one.rows, PER_SET)]


def _spread(rows: Sequence[Row], most: int) -> list[Row]:
    return [rows[i] for i in sorted({round(i) for i in np.linspace(0, len(rows) - 1, most)})]


def made_up_rows(settings: Settings) -> tuple[list[Row], Mapping[str, NDArray[np.uint8]]]:
    """Return questions about noise, and its frames, for a model exported without a dataset at hand."""
    noise = np.random.default_rng(0)
    frames: dict[str, NDArray[np.uint8]] = {}
    rows: list[Row] = []
    for number, count in enumerate((1, 4, 8)):
        name = f"clip:noise/{number}"
        frames[name] = noise.integers(0, 256, (count, *settings.size, 3), dtype=np.uint8)
        question = f"<video>The person says: '{'word ' * number}' What do they feel?"
        rows.append({"messages": [{"role": "user", "content": question}], "videos": [name], "channel": name})
    return rows, frames
