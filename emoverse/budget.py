"""Count how many rows are too long for a model, per task, before any GPU time is spent.

ms-swift silently deletes over-long rows: with ``max_length`` 2048 and eight frames of 256 tokens it deletes every
video. The lengths are those the trainer sees (a test compares the two): the model's own tokenizer, chat format and
tokens per frame, question and answer. Neither torch nor a GPU is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from emoverse.artifacts.manifest import open_source, publish, write_json
from emoverse.errors import UserError
from emoverse.prompt import Encoder, settings_of_model

Budget = Mapping[str, Any]
"""What ``token_budget`` returns."""

_BATCH: Final = 2048
_SHOWN: Final = 5


def token_budget(rows: Sequence[Path], model: Path, frames: int, max_length: int) -> dict[str, Any]:
    """Return per task how many rows there are, their median and longest length, and the ids of over-long ones.

    Args:
        rows: JSONL files of AMT.
        model: A transformers-native folder (``model/`` of a step's output).
        frames: Number of frames of a video; a still shows one.
        max_length: Tokens that a row may have.

    Returns:
        ``{"max_length": n, "tasks": {"mer": {"rows": n, "median": tokens, "longest": tokens, "over": n, "over_rows":
        [channel, ...]}}}``.

    Raises:
        UserError: A file is missing, the model is incomplete, or text contains one of the model's control tokens.
    """
    encoder = Encoder(model, settings_of_model(model))
    lengths: defaultdict[str, list[int]] = defaultdict(list)
    over: defaultdict[str, list[str]] = defaultdict(list)
    for path in rows:
        remaining = _read(path)
        while batch := list(islice(remaining, _BATCH)):
            for row, length in zip(batch, _lengths(batch, encoder, frames), strict=True):
                lengths[row["task"]].append(length)
                if length > max_length:
                    over[row["task"]].append(row["channel"])
    tasks = {
        name: {
            "rows": len(counts),
            "median": float(np.median(counts)),
            "longest": max(counts),
            "over": len(over[name]),
            "over_rows": over[name],
        }
        for name, counts in sorted(lengths.items())
    }
    return {"max_length": max_length, "tasks": tasks}


def stage_budgets(amt: Path, model: Path, frames: int, lengths: Mapping[str, int]) -> dict[str, Budget]:
    """Return the budget of each stage of AMT.

    Args:
        amt: Output of build-amt.
        model: A transformers-native folder.
        frames: Number of frames of a video.
        lengths: Stage -> its ``max_length``.
    """
    return {stage: token_budget([amt / f"{stage}.jsonl"], model, frames, most) for stage, most in lengths.items()}


def budget(amt: Path, model: Path, frames: int, lengths: Mapping[str, int], out: Path) -> None:
    """Publish ``budget.json`` (`stage_budgets`) and ``table.md`` at ``out``, then refuse rows that are too long.

    Args:
        amt: Output of build-amt.
        model: A step's output that has ``model/``; a copy without weights is enough.
        frames: Number of frames of a video.
        lengths: Stage -> its ``max_length``.
        out: Folder to publish.

    Raises:
        UserError: As `stage_budgets` and `check_budgets` do.
    """
    sources = {"amt": open_source(amt, made_by="build-amt"), "model": open_source(model, weights=False)}
    params = {"frames": frames, "max_length": dict(lengths)}
    with publish(out, step="budget", params=params, inputs=sources) as draft:
        budgets = stage_budgets(amt, model / "model", frames, lengths)
        write_json(draft.path / "budget.json", budgets)
        (draft.path / "table.md").write_text(as_markdown(budgets), "utf-8", newline="\n")
        tasks = [task for budget in budgets.values() for task in budget["tasks"].values()]
        rows, over = (sum(task[key] for task in tasks) for key in ("rows", "over"))
        draft.count(rows_in=rows, rows_out=rows - over, dropped={"too-long": over})
    check_budgets(budgets)


def check_budgets(budgets: Mapping[str, Budget]) -> None:
    """Raise UserError for the first stage that has a row too long for it."""
    for stage, budget in budgets.items():
        check_budget(budget, place=f"{stage}.max_length")


def check_budget(budget: Budget, *, place: str) -> None:
    """Raise UserError when a row is too long, with each task's counts and the length that would suffice."""
    tasks = {name: task for name, task in budget["tasks"].items() if task["over"]}
    if not tasks:
        return
    counts = ", ".join(f"{name} {task['over']} of {task['rows']}" for name, task in tasks.items())
    first = [row for task in tasks.values() for row in task["over_rows"]][:_SHOWN]
    longest = max(task["longest"] for task in tasks.values())
    problem = f"rows longer than {budget['max_length']} tokens: {counts}; the first are {', '.join(first)}"
    raise UserError(problem, place=place, remedy=f"raise max_length to {longest}, or give fewer or smaller frames")


def as_markdown(budgets: Mapping[str, Budget]) -> str:
    """Write the budgets of the stages as one table."""
    lines = ["| stage | task | rows | median | longest | max_length | too long |", "|---|---|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {stage} | {name} | {task['rows']:,} | {task['median']:,.1f} | {task['longest']:,} "
        f"| {budget['max_length']:,} | {task['over']:,} |"
        for stage, budget in budgets.items()
        for name, task in budget["tasks"].items()
    ]
    return "\n".join(["# Tokens of the training rows", "", *lines, ""])


def _lengths(rows: Sequence[Mapping[str, Any]], encoder: Encoder, frames: int) -> list[int]:
    """Return each row's tokens: its prompt with image tokens, its answer, and the token that ends it."""
    prompts = encoder.prompt_ids(rows, [frames if row["videos"] else 1 for row in rows])
    answers = [encoder.answer_ids(row["messages"][-1]["content"]) for row in rows]
    return [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise UserError("no such file", place=str(path), remedy="run `emoverse build-amt` first")
    with path.open("rb") as handle:
        yield from map(orjson.loads, handle)
