"""Write the AMT dataset: JSONL files, counts, page."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined

from emoverse.amt.published import RecordList, media_path, record
from emoverse.corpora import Utterance
from emoverse.tasks import Question

BLANK, MUTE = "~blank", "~mute"
"""Suffixes of the copies that modality drop-out adds; they are not published."""


@dataclass
class Row:
    """One row of the dataset.

    Attributes:
        still: Whether it shows the clip's peak frame instead of the clip.
        query: The verbatim prompt, where it differs from the neutralised one.
        suffix: Tells rows of one task and clip apart.
        group: The dialogue, for rows with gold: records of one dialogue are not independent.
    """

    task: str
    utterance: Utterance
    question: Question
    still: bool
    query: str = ""
    suffix: str = ""
    group: str = ""

    @property
    def is_copy(self) -> bool:
        """Return whether this is an altered copy of another row."""
        return self.suffix in (BLANK, MUTE)

    @property
    def reference(self) -> str:
        """Return the reference to the row's frames."""
        blank = "#blank" if self.suffix == BLANK else ""
        return f"clip:{self.utterance.utterance_id}{'#peak' if self.still else ''}{blank}"

    def published(self) -> bytes:
        """Return the record in the authors' form, with the transcript verbatim."""
        query, path = self.query or self.question.text, media_path(self.utterance, still=self.still)
        return record(self.task, query, self.question.answer, path, still=self.still)

    def line(self, system: str) -> bytes:
        """Return the row in ms-swift's format as a line of JSON; the keys after ``channel`` are ours."""
        question, utterance_id = self.question, self.utterance.utterance_id
        messages = [{"role": "system", "content": system}] if system else []
        messages += [
            {"role": "user", "content": ("<image>" if self.still else "<video>") + question.text},
            {"role": "assistant", "content": question.answer},
        ]
        row = {
            "messages": messages,
            "videos": [] if self.still else [self.reference],
            "images": [self.reference] if self.still else [],
            "channel": f"{self.task}/{utterance_id}{self.suffix}",
            "task": self.task,
            "corpus": self.utterance.corpus,
            "utterance_id": utterance_id,
            **question.extra,
        }
        if self.group:
            row["gold"] = {**question.gold, "group": self.group}
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


class Outputs:
    """The open files of the dataset: each is opened with its first row, and all are closed at the end."""

    def __init__(self, root: Path, system: str) -> None:
        self._root, self._system = root, system
        self._stack = ExitStack()
        self._files: dict[str, IO[bytes]] = {}
        self._published: dict[str, RecordList] = {}
        self.tallies: dict[str, Tally] = {}

    def __enter__(self) -> Outputs:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._stack.close()

    def write(self, name: str, row: Row) -> None:
        """Write a row to ``<name>.jsonl`` and, unless it is a copy, to ``published/<name>.json``."""
        if name not in self._files:
            self._files[name] = self._open(f"{name}.jsonl")
            self.tallies[name] = Tally()
        self._files[name].write(row.line(self._system))
        self.tallies[name].add(row)
        if row.is_copy:
            return
        if name not in self._published:
            self._published[name] = RecordList(self._open(f"published/{name}.json"))
            self._stack.callback(self._published[name].end)
        self._published[name].add(row.published())

    def _open(self, name: str) -> IO[bytes]:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return self._stack.enter_context(path.open("wb", buffering=1 << 20))


_LISTED: Final = 50
_KEPT: Final = 100_000


class Tally:
    """Count the rows of one file in bounded memory: 24 bytes a row, and at most ``_KEPT`` different answers."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.empty = 0
        self.outside = 0
        self.placeholders = 0
        # Python's own hashes: 64 bits, and only equal ones are counted, so the counts do not depend on the hash seed.
        self._texts = array("q")
        self._clips = array("q")
        self._answers = array("q")

    def add(self, row: Row) -> None:
        """Count a row."""
        answer, text, allowed = row.question.answer, row.question.text, row.question.gold["answers"]
        if answer in self.answers or len(self.answers) < _KEPT:
            self.answers[answer] += 1
        self.empty += not answer.strip()
        self.outside += allowed is not None and answer not in allowed
        self.placeholders += row.query != ""
        self._texts.append(hash(text))
        self._clips.append(hash((text, row.reference)))
        self._answers.append(hash(answer))

    def report(self) -> dict[str, Any]:
        """Return the counts; contradictions are groups of equal prompts (and clips) with more than one answer."""
        common = sorted(self.answers.items(), key=lambda item: (-item[1], item[0]))
        return {
            "rows": len(self._texts),
            "answers": dict(common[:_LISTED]),
            "different_answers": len(self.answers),
            "empty_answers": self.empty,
            "answers_outside_set": self.outside,
            "prompts_with_placeholders": self.placeholders,
            "same_words_other_answer": _contradictions(self._texts, self._answers),
            "same_words_and_clip_other_answer": _contradictions(self._clips, self._answers),
        }


def _contradictions(keys: array[int], answers: array[int]) -> int:
    """Count the keys that occur with more than one answer."""
    pairs = np.unique(np.column_stack([np.frombuffer(column, np.int64) for column in (keys, answers)]), axis=0)
    _, counts = np.unique(pairs[:, 0], return_counts=True)
    return int((counts > 1).sum())


_COMMON: Final = 7
_SHORT: Final = 40


def write_page(path: Path, audit: Mapping[str, Any], baselines: Mapping[str, Any]) -> None:
    """Write the page; everything from the data is escaped. No script: a sandboxed iframe shows all of it."""
    environment = Environment(
        loader=PackageLoader("emoverse.amt", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["count"] = lambda value: f"{value:,}"
    records = sum(test["records"] for test in baselines.values())
    page = environment.get_template("page.html.jinja")
    text = page.render(audit=audit, baselines=baselines, records=records, common=_common)
    path.write_text(text, "utf-8", newline="\n")


def _common(file: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the most frequent answers of a file; none of a file of sentences, which hardly repeat."""
    common = list(file["answers"].items())[:_COMMON]
    return common if all(len(answer) <= _SHORT for answer, _ in common) else []
