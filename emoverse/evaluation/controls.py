"""Make the control versions of test rows, and count what was trained."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from emoverse.inference.testsets import Row, read_jsonl

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


def trained_answers(amt: Path) -> dict[tuple[str, str], list[str]]:
    """Return the answers of the train rows of both stages by (corpus, task), each row once."""
    found: dict[str, tuple[str, str, str]] = {}
    for stage in ("stage1.jsonl", "stage2.jsonl"):
        path = amt / stage
        for _, row, problem in read_jsonl(path) if path.is_file() else ():
            if not problem:
                key = str(row.get("utterance_id")), str(row["task"])
                found["\0".join(key)] = str(row["corpus"]), str(row["task"]), _answer(row["messages"])
    result: dict[tuple[str, str], list[str]] = {}
    for corpus, task, answer in found.values():
        result.setdefault((corpus, task), []).append(answer)
    return result


def _answer(messages: Sequence[Mapping[str, str]]) -> str:
    return next((message["content"] for message in messages if message["role"] == "assistant"), "")
