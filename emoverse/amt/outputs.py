"""Write AMT's files: ms-swift's JSONL, the test files with their gold, and the authors' published form beside them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from emoverse.amt.published import RecordList, media_path, quoted, records
from emoverse.amt.tally import Tally
from emoverse.corpora.base import Utterance
from emoverse.tasks.base import Gold, Question

COPIES: Final = ("~blank", "~mute")
"""Suffixes of rows that modality drop-out adds; they are not published."""


@dataclass
class Rows:
    """Rows of one task and one corpus, in columns.

    ``queries`` are verbatim prompts, empty where the safe one is the same; ``suffixes`` tell rows of one task and clip
    apart (``~blank`` and ``~mute`` are copies). Both, and ``golds``, may be empty for none at all.
    """

    task: str
    still: bool
    utterances: Sequence[Utterance]
    questions: Sequence[Question]
    queries: Sequence[str] = ()
    suffixes: Sequence[str] = ()
    golds: Sequence[Gold] = ()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.utterances)

    @property
    def copied(self) -> bool:
        """Say whether these are altered copies of other rows."""
        return any(suffix in COPIES for suffix in self.suffixes[:1])

    @property
    def answers(self) -> list[str]:
        """Return the right answers."""
        return [question.answer for question in self.questions]

    @property
    def references(self) -> list[str]:
        """Return the frames that each row shows."""
        tail = self._tail
        return [f"clip:{one.utterance_id}{tail}" for one in self.utterances]

    def published(self) -> list[str]:
        """Return the records in the authors' form, the transcripts verbatim."""
        words = self._quoted
        if any(self.queries):
            verbatim = zip(self.queries, words, strict=True)
            words = [(quoted(query) if query else text, answer) for query, (text, answer) in verbatim]
        clips = [quoted(media_path(one, still=self.still)) for one in self.utterances]
        return records(self.task, words, clips, still=self.still)

    def lines(self, system: str) -> list[str]:
        """Return the rows in ms-swift's format, our own keys after ``channel``, as JSON lines."""
        told = f'{{"role":"system","content":{quoted(system)}}},' if system else ""
        mark, task, tail, corpus = (
            "<image>" if self.still else "<video>",
            self.task,
            self._tail,
            self.utterances[0].corpus,
        )
        videos, images = ("", '"clip:%s"') if self.still else ('"clip:%s"', "")
        ids = [quoted(one.utterance_id)[1:-1] for one in self.utterances]
        shown = f'"videos":[{videos}],"images":[{images}]'
        suffixes = self.suffixes or [""] * len(self)
        return [
            f'{{"messages":[{told}{{"role":"user","content":"{mark}{text[1:]}}},'
            f'{{"role":"assistant","content":{answer}}}],{shown % (name + tail)},'
            f'"channel":"{task}/{name}{suffix}","task":"{task}","corpus":"{corpus}","utterance_id":"{name}"{more}}}\n'
            for (text, answer), name, suffix, more in zip(self._quoted, ids, suffixes, self._more(), strict=True)
        ]

    @property
    def _tail(self) -> str:
        return ("#peak" if self.still else "") + ("#blank" if self.suffixes[:1] == ["~blank"] else "")

    @cached_property
    def _quoted(self) -> list[tuple[str, str]]:
        """Return question and answer as JSON strings: both files of a row write them, and are little else."""
        answers = {answer: quoted(answer) for answer in set(self.answers)}
        return [(quoted(question.text), answers[question.answer]) for question in self.questions]

    def _more(self) -> list[str]:
        """Return each row's further keys: those of its question, and its gold."""
        more = ["," + orjson.dumps(one.extra).decode()[1:-1] if one.extra else "" for one in self.questions]
        if not self.golds:
            return more
        golds = (orjson.dumps(gold).decode() for gold in self.golds)
        return [f'{extra},"gold":{gold}' for extra, gold in zip(more, golds, strict=True)]


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

    def write(self, name: str, parts: Sequence[Rows], places: Sequence[NDArray[np.int64]]) -> None:
        """Write rows to ``<name>.jsonl`` in order of their places, and all but copies to ``published/<name>.json``."""
        full = [i for i, rows in enumerate(parts) if len(rows)]
        if not full:
            return
        parts, places = [parts[i] for i in full], [places[i] for i in full]
        file = self._files.get(name) or self._open(name)
        file.rows.write("".join(_in_order([rows.lines(self._system) for rows in parts], places)).encode())
        for rows in parts:
            file.tally.add(rows)
        own = [i for i, rows in enumerate(parts) if not rows.copied]
        if own:
            published = _in_order([parts[i].published() for i in own], [places[i] for i in own])
            (file.published or self._publish(name, file)).add(*published)

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


def _in_order(parts: Sequence[list[str]], places: Sequence[NDArray[np.int64]]) -> list[str]:
    """Merge lists into one by the places of their members."""
    flat = [one for part in parts for one in part]
    if len(parts) == 1:
        return flat
    return [flat[i] for i in np.argsort(np.concatenate(places), kind="stable")]
