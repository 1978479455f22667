"""What a score is held against: the control versions of test rows, and trivial predictors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from emoverse.inference.testsets import Row

# The words stand in quotes before the task's tag; greedy, as a transcript may hold quotes of its own.
_WORDS: Final = re.compile(r"(The person says: (['\"])).*(\2 <(?:emotion|sentiment)>)", re.DOTALL)


def text_only(row: Mapping[str, Any]) -> Row:
    """Return the row with mid-grey frames: what is left is the words."""
    blank = {kind: [f"{reference}#blank" for reference in row.get(kind, ())] for kind in ("videos", "images")}
    return {**row, **blank}


def face_only(row: Mapping[str, Any]) -> Row:
    """Return the row with ``...`` for the words: what is left is the clip; raise ValueError when it shows no words."""
    messages: list[dict[str, str]] = []
    changed = 0
    for message in row["messages"]:
        text, count = message["content"], 0
        if message["role"] == "user":
            text, count = _WORDS.subn(r"\1...\3", text)
        changed += count
        messages.append({**message, "content": text})
    if changed != 1:
        raise ValueError(f"{row['channel']}: found {changed} transcripts to blank")
    return {**row, "messages": messages}


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
