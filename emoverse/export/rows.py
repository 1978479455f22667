"""Choose the questions that an export is checked on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emoverse.inference.settings import Settings
from emoverse.inference.testsets import Row, read_sets

PER_SET: Final = 4


def asked_rows(amt: Path) -> tuple[list[Row], dict[str, tuple[str, ...]]]:
    """Return a few rows of every test set, evenly spread over it, and the closed answers by channel."""
    rows: list[Row] = []
    answers: dict[str, tuple[str, ...]] = {}
    for one in read_sets(amt):
        places = sorted({round(i) for i in np.linspace(0, len(one.rows) - 1, PER_SET)})
        rows += [one.rows[i] for i in places]
        answers |= {str(one.rows[i]["channel"]): one.answers for i in places if one.answers}
    return rows, answers


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
