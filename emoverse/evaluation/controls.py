"""What a score is held against: the control versions of test rows, and trivial predictors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from emoverse.inference.testsets import Row
from emoverse.tasks.text import mute


def text_only(row: Mapping[str, Any]) -> Row:
    """Return the row with mid-grey frames: what is left is the words."""
    blank = {kind: [f"{reference}#blank" for reference in row.get(kind, ())] for kind in ("videos", "images")}
    return {**row, **blank}


def face_only(row: Mapping[str, Any]) -> Row:
    """Return the row with ``...`` for the words: what is left is the clip; raise ValueError when it shows no words."""
    asked = [mute(message["content"]) if message["role"] == "user" else None for message in row["messages"]]
    if (found := sum(text is not None for text in asked)) != 1:
        raise ValueError(f"{row['channel']}: found {found} transcripts to blank")
    pairs = zip(row["messages"], asked, strict=True)
    return {**row, "messages": [message if text is None else {**message, "content": text} for message, text in pairs]}


CONTROLS: Final[dict[str, Callable[[Mapping[str, Any]], Row]]] = {"text-only": text_only, "face-only": face_only}


def trivial_scores(amt: Path) -> dict[str, dict[str, float]]:
    """Return the headline score of each trivial predictor by test set, from build-amt's ``baselines.json``.

    It knows the answers of the train rows, so its majority is what a predictor could know.
    """
    tree = json.loads((amt / "baselines.json").read_text("utf-8"))
    return {
        name: {kind: float(one["scores"][found["headline"]]) for kind, one in found["baselines"].items()}
        for name, found in tree.items()
    }
