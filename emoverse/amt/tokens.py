"""Count how many rows are too long for the model, per task, before any GPU time is spent.

ms-swift deletes over-long rows without a word: with ``max_length`` 2048 and eight frames of 256 tokens it deletes every
video. The tokenizer lives with the trainer, which hands its own count in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from emoverse.errors import UserError

CountTokens = Callable[[Mapping[str, Any]], int]
"""Count the tokens of one AMT row, image tokens included."""
_SHOWN: Final = 5


def token_budget(path: Path, count_tokens: CountTokens, max_length: int) -> dict[str, Any]:
    """Return per task how many rows there are, their median and longest length, and the ids of over-long ones."""
    lengths: dict[str, list[int]] = defaultdict(list)
    over: dict[str, list[str]] = defaultdict(list)
    with path.open("rb") as handle:
        for line in handle:
            row = orjson.loads(line)
            length = count_tokens(row)
            lengths[row["task"]].append(length)
            if length > max_length:
                over[row["task"]].append(row["channel"])
    tasks = {
        name: {
            "rows": len(found),
            "median": float(np.median(found)),
            "longest": max(found),
            "over": len(over[name]),
            "over_rows": over[name],
        }
        for name, found in sorted(lengths.items())
    }
    return {"max_length": max_length, "tasks": tasks}


def check_budget(budget: Mapping[str, Any], *, place: str) -> None:
    """Raise UserError when a row is too long, with the numbers of each task and the length that would do."""
    tasks = {name: one for name, one in budget["tasks"].items() if one["over"]}
    if not tasks:
        return
    counts = ", ".join(f"{name} {one['over']} of {one['rows']}" for name, one in tasks.items())
    first = [row for one in tasks.values() for row in one["over_rows"]][:_SHOWN]
    longest = max(one["longest"] for one in tasks.values())
    problem = f"rows longer than {budget['max_length']} tokens: {counts}; the first are {', '.join(first)}"
    raise UserError(problem, place=place, remedy=f"raise max_length to {longest}, or give fewer or smaller frames")
