"""Write the AMT dataset: JSONL files, counts, page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from emoverse.amt.published import RecordList, escaped, records
from emoverse.tasks.base import Question

if TYPE_CHECKING:
    pass
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

COPIES: Final = ("~blank", "~mute")
"""Suffixes of rows that modality drop-out adds; they are not published."""


@dataclass
class Rows:
    """Rows of one task and one corpus, in columns.

    ``ids``, ``clips`` (as published) and ``groups`` are escaped as JSON strings. ``queries`` are verbatim prompts,
    empty where the safe one is the same; ``suffixes`` tell rows of one task and clip apart (``~blank`` and ``~mute``
    are copies); ``groups`` are the dialogues of rows with gold. These three may be empty for none at all.
    """

    task: str
    corpus: str
    still: bool
    ids: Sequence[bytes]
    clips: Sequence[bytes]
    questions: Sequence[Question]
    queries: Sequence[str] = ()
    suffixes: Sequence[str] = ()
    groups: Sequence[bytes] = ()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.questions)

    @property
    def copied(self) -> bool:
        """Say whether these are altered copies of other rows."""
        return any(suffix in COPIES for suffix in self.suffixes[:1])

    @cached_property
    def answers(self) -> list[str]:
        """Return the right answers."""
        return [question.answer for question in self.questions]

    @cached_property
    def texts(self) -> list[bytes]:
        """Return the questions, escaped as JSON strings: both files of a row hold them, and little else."""
        return escaped([question.text for question in self.questions])

    @property
    def tail(self) -> str:
        """Return what the references to the rows' frames end with."""
        return ("#peak" if self.still else "") + ("#blank" if self.suffixes[:1] == ["~blank"] else "")

    def published(self) -> list[bytes]:
        """Return the records in the authors' form, the transcripts verbatim."""
        texts = self.texts
        if any(self.queries):
            verbatim = zip(texts, escaped(self.queries), strict=True)
            texts = [query or text for text, query in verbatim]
        return records(self.task, texts, self._answers, self.clips, still=self.still)

    def lines(self, system: str) -> list[bytes]:
        """Return the rows in ms-swift's format, our own keys after ``channel``, as JSON lines."""
        told = f'{{"role":"system","content":"{escaped([system])[0].decode()}"}},'.replace("%", "%%") if system else ""
        mark, shown = "<image>" if self.still else "<video>", f'"clip:%b{self.tail}"'
        videos, images = ("", shown) if self.still else (shown, "")
        line = (
            f'{{"messages":[{told}{{"role":"user","content":"{mark}%b"}},{{"role":"assistant","content":"%b"}}],'
            f'"videos":[{videos}],"images":[{images}],"channel":"{self.task}/%b%b","task":"{self.task}",'
            f'"corpus":"{self.corpus}","utterance_id":"%b"%b}}\n'
        ).encode()
        suffixes = [suffix.encode() for suffix in self.suffixes] or repeat(b"", len(self))
        columns = zip(self.texts, self._answers, self.ids, suffixes, self._more(), strict=True)
        return [line % (text, answer, name, name, suffix, name, more) for text, answer, name, suffix, more in columns]

    @cached_property
    def _answers(self) -> list[bytes]:
        """Return the answers, escaped as JSON strings; most occur many times."""
        known = list(set(self.answers))
        written = dict(zip(known, escaped(known), strict=True))
        return [written[answer] for answer in self.answers]

    def _more(self) -> list[bytes]:
        """Return each row's further keys: those of its question, and its gold."""
        more = [b"," + orjson.dumps(one.extra)[1:-1] if one.extra else b"" for one in self.questions]
        if not self.groups:
            return more
        golds = [orjson.dumps(one.gold)[:-1] for one in self.questions]  # the group is its last key
        columns = zip(more, golds, self.groups, strict=True)
        return [b'%b,"gold":%b,"group":"%b"}' % (extra, gold, group) for extra, gold, group in columns]


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
        file.rows.write(b"".join(_in_order([rows.lines(self._system) for rows in parts], places)))
        for rows in parts:
            file.tally.add(rows)
        own = [i for i, rows in enumerate(parts) if not rows.copied]
        if own:
            published = _in_order([parts[i].published() for i in own], [places[i] for i in own])
            (file.published or self._publish(name, file)).add(published)

    def _open(self, name: str) -> _File:
        path = self._root / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files[name] = _File(self._stack.enter_context(path.open("wb")), Tally())
        return self._files[name]

    def _publish(self, name: str, file: _File) -> RecordList:
        path = self._root / "published" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = self._stack.enter_context(path.open("wb"))
        file.published = RecordList(handle)
        self._stack.callback(file.published.end)
        return file.published


def _in_order(parts: Sequence[list[bytes]], places: Sequence[NDArray[np.int64]]) -> list[bytes]:
    """Merge lists into one by the places of their members."""
    flat = [one for part in parts for one in part]
    if len(parts) == 1:
        return flat
    return [flat[i] for i in np.argsort(np.concatenate(places), kind="stable")]


_LISTED: Final = 50
_KEPT: Final = 100_000
_ODD: Final = np.int64(0x2545F4914F6CDD1D)  # any large odd number: words and clip must not cancel each other out
Hashes = NDArray[np.int64]


class Tally:
    """Count the rows of one file in bounded memory: 24 bytes a row, and not many more than ``_KEPT`` answers."""

    def __init__(self) -> None:
        self.rows = 0
        self.answers: Counter[str] = Counter()
        self.empty = 0
        self.outside = 0
        self.placeholders = 0
        # Python's own hashes: 64 bits, and only equal ones are counted, so the counts do not depend on the hash seed.
        self._words: list[Hashes] = []
        self._clips: list[Hashes] = []
        self._answers: list[Hashes] = []

    def add(self, rows: Rows) -> None:
        """Count rows of one task."""
        if not len(rows):
            return
        found, allowed = Counter(rows.answers), rows.questions[0].gold["answers"]
        self.rows += len(rows)
        if len(self.answers) < _KEPT:
            self.answers.update(found)
        self.empty += sum(count for answer, count in found.items() if not answer.strip())
        self.placeholders += sum(query != "" for query in rows.queries)
        if allowed is not None:
            self.outside += sum(count for answer, count in found.items() if answer not in allowed)
        words = _hashes(rows.texts)
        self._words.append(words)
        self._clips.append(words * _ODD ^ _hashes(rows.ids) + hash(rows.tail))
        self._answers.append(_hashes(rows.answers))

    def report(self) -> dict[str, Any]:
        """Return the counts; contradictions are groups of equal prompts (and clips) with more than one answer."""
        held = (self._words, self._clips, self._answers)
        words, clips, answers = (np.concatenate(one) if one else np.zeros(0, np.int64) for one in held)
        common = sorted(self.answers.items(), key=lambda item: (-item[1], item[0]))
        return {
            "rows": self.rows,
            "answers": dict(common[:_LISTED]),
            "different_answers": len(self.answers),
            "empty_answers": self.empty,
            "answers_outside_set": self.outside,
            "prompts_with_placeholders": self.placeholders,
            "same_words_other_answer": _contradictions(words, answers),
            "same_words_and_clip_other_answer": _contradictions(clips, answers),
        }


def _hashes(texts: Sequence[str] | Sequence[bytes]) -> Hashes:
    return np.fromiter(map(hash, texts), dtype=np.int64, count=len(texts))


def _contradictions(keys: Hashes, answers: Hashes) -> int:
    """Count the keys that occur with more than one answer: in any order, two that differ are somewhere neighbours."""
    order = np.argsort(keys, kind="stable")
    keys, answers = keys[order], answers[order]
    changed = (keys[1:] == keys[:-1]) & (answers[1:] != answers[:-1])
    return len(np.unique(keys[1:][changed]))


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
    """Return the commonest answers of a file; none of sentences, of which each is nearly its own."""
    found = list(file["answers"].items())[:_COMMON]
    return found if all(len(answer) <= _SHORT for answer, _ in found) else []
