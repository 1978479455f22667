"""Write AMT's files: ms-swift's JSONL, the test files with their gold, and the authors' published form beside them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import orjson

from emoverse.amt.published import RecordList, media_path, record
from emoverse.amt.tally import Tally
from emoverse.corpora.base import Utterance
from emoverse.tasks.base import Gold, Question

COPIES: Final = ("~blank", "~mute")
"""Suffixes of rows that modality drop-out adds; they are not published."""


@dataclass
class _File:
    """One open JSONL file, what was counted of it, and its published form once that has a row."""

    rows: IO[bytes]
    tally: Tally
    published: RecordList | None = None


class Outputs:
    """Open each file when its first row comes; close all of them at the end."""

    def __init__(self, root: Path, system: str) -> None:
        self._root, self._system = root, system
        self._stack = ExitStack()
        self._files: dict[str, _File] = {}

    @property
    def tallies(self) -> dict[str, Tally]:
        """Return what was counted, by file."""
        return {name: file.tally for name, file in self._files.items()}

    def __enter__(self) -> Outputs:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._stack.close()

    def write(
        self,
        name: str,
        task: str,
        one: Utterance,
        question: Question,
        *,
        still: bool,
        query: str = "",
        suffix: str = "",
        gold: Gold | None = None,
        placeholder: bool = False,
    ) -> None:
        """Write one row to ``<name>.jsonl``, and to ``published/<name>.json`` unless it is an altered copy.

        ``suffix`` names a copy (``~blank``, ``~mute``); ``query`` is the verbatim prompt where the safe one differs.
        """
        reference = f"clip:{one.utterance_id}{'#peak' if still else ''}{'#blank' if suffix == '~blank' else ''}"
        row = self._row(task, one, question, reference, still=still, suffix=suffix)
        if gold is not None:
            row["gold"] = gold
        file = self._files.get(name) or self._open(name)
        file.rows.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        file.tally.add(question.text, reference, question.answer, question.gold["answers"], placeholder=placeholder)
        if suffix not in COPIES:
            text = record(task, query or question.text, question.answer, media_path(one, still=still), still=still)
            (file.published or self._publish(name, file)).add(text)

    def _row(
        self, task: str, one: Utterance, question: Question, reference: str, *, still: bool, suffix: str
    ) -> dict[str, Any]:
        """Return the row in ms-swift's format, our own keys after ``channel``."""
        mark = "<image>" if still else "<video>"
        messages = [
            {"role": "user", "content": mark + question.text},
            {"role": "assistant", "content": question.answer},
        ]
        if self._system:
            messages.insert(0, {"role": "system", "content": self._system})
        return {
            "messages": messages,
            "videos": [] if still else [reference],
            "images": [reference] if still else [],
            "channel": f"{task}/{one.utterance_id}{suffix}",
            "task": task,
            "corpus": one.corpus,
            "utterance_id": one.utterance_id,
            **question.extra,
        }

    def _open(self, name: str) -> _File:
        path = self._root / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files[name] = _File(self._stack.enter_context(path.open("wb")), Tally())
        return self._files[name]

    def _publish(self, name: str, file: _File) -> RecordList:
        path = self._root / "published" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = self._stack.enter_context(path.open("w", encoding="utf-8", newline="\n"))
        file.published = RecordList(handle)
        self._stack.callback(file.published.end)
        return file.published
