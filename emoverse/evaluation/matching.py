"""Pair predictions with gold records, and the rows of two prediction files with each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from emoverse.errors import RowErrors

Key = tuple[str, ...]
_SUFFIXES: Final = frozenset(("mp4", "avi", "mkv", "mov", "webm", "png", "jpg", "jpeg", "wav"))
_REMEDY: Final = "give every row its id (channel), or its clip and question, as the model was given them"


@dataclass(frozen=True)
class Prediction:
    """One reply to one gold record, or (without a reply) the record itself.

    Attributes:
        place: ``file:row``.
        name: Its name in messages.
        channel: Our id of the row, if the file has it.
        shown: The clip and the question, which identify rows of other projects' files.
        reply: The model's text.
        gold: What scoring needs.
        group: The dialogue or video; records of one group are not independent.
        own: The gold that the row itself carried.
        corpus: Whose labels the gold has.
        labelled: Whether the row has a right answer of its own.
    """

    place: str
    name: str
    channel: str
    shown: tuple[str, str]
    reply: str
    gold: dict[str, Any]
    group: str
    own: dict[str, Any] = field(default_factory=dict)
    corpus: str = ""
    labelled: bool = True

    @property
    def label(self) -> str:
        """Return its place and name, for a message."""
        return self.place if self.name == self.place else f"{self.place}: {self.name}"

    @property
    def key(self) -> Key:
        """Return what identifies the row, () if nothing does: the same text may be said in many clips."""
        if self.channel:
            return (self.channel,)
        return self.shown if self.shown[0] else ()


def repeats(rows: Sequence[Prediction]) -> list[str]:
    """List rows that answer what an earlier row answered."""
    first: dict[Key, str] = {}
    problems = []
    for row in rows:
        if row.key and row.key in first:
            problems.append(f"{row.label}: answered at {first[row.key]} already")
        first.setdefault(row.key, row.place)
    return problems


def against_gold(rows: Sequence[Prediction], records: Sequence[Prediction]) -> tuple[list[Prediction], list[str]]:
    """Pair predictions with gold records; the record's gold counts, and a different one in the file is a problem.

    Raises:
        RowErrors: Rows of either file cannot be distinguished.
    """
    predicted, known = _tables(rows, records)
    problems = [f"{row.label}: not a record of the gold file" for key, row in predicted.items() if key not in known]
    problems += [f"{record.label}: has no prediction" for key, record in known.items() if key not in predicted]
    pairs = [(row, known[key]) for key, row in predicted.items() if key in known]
    problems += [problem for row, record in pairs for problem in _changed(row, record)]
    return [replace(row, gold=record.gold, group=record.group) for row, record in pairs], problems


def _changed(row: Prediction, record: Prediction) -> list[str]:
    """List how a row's own gold differs from the record's: its answer, and the other keys that it carries."""
    if row.labelled and row.gold["answer"] != record.gold["answer"]:
        own, right = repr(row.gold["answer"]), repr(record.gold["answer"])
        return [f"{row.label}: the answer is {right} ({record.place}), the file says {own}"]
    return [
        f"{row.label}: gold.{key} is {record.own[key]!r} ({record.place}), the file says {row.own[key]!r}"
        for key in sorted(row.own.keys() & record.own.keys())
        if row.own[key] != record.own[key]
    ]


def paired(first: Sequence[Prediction], second: Sequence[Prediction]) -> tuple[list[Prediction], list[str]]:
    """Return the rows of ``second`` in the order of ``first``, and the problems.

    Rows of files without ids, clips or questions are paired line by line if their right answers agree.
    """
    problems: list[str] = []
    if len(first) == len(second) and not all(row.key for row in (*first, *second)):
        pairs = list(zip(first, second, strict=True))
    else:
        one, other = _tables(first, second)
        unpaired = [row for key, row in one.items() if key not in other]
        unpaired += [row for key, row in other.items() if key not in one]
        problems += [f"{row.label}: not in the other file" for row in unpaired]
        pairs = [(row, other[key]) for key, row in one.items() if key in other]
    problems += [f"{a.label}: another answer at {b.place}" for a, b in pairs if a.gold["answer"] != b.gold["answer"]]
    return [row for _, row in pairs], problems


def _tables(
    first: Sequence[Prediction], second: Sequence[Prediction]
) -> tuple[Mapping[Key, Prediction], Mapping[Key, Prediction]]:
    """Key both files the same way: by our ids if all rows have one, else by clip and question, or by clip alone."""
    if all(row.channel for row in (*first, *second)):
        return _keyed(first, lambda row: (row.channel,)), _keyed(second, lambda row: (row.channel,))
    if all(row.shown[0] for row in (*first, *second)) and not all(row.shown[1] for row in (*first, *second)):
        return _keyed(first, _clip_key(second)), _keyed(second, _clip_key(second))
    return _keyed(first, lambda row: row.shown), _keyed(second, lambda row: row.shown)


def _clip_key(records: Sequence[Prediction]) -> Callable[[Prediction], Key]:
    """Return what finds the record that shows a row's clip, whatever part of the clip's path a file gives.

    The key is the record's place, or the clip itself if no record, or more than one, has its name.
    """
    places: dict[str, set[str]] = {}
    for record in records:
        for name in names_of(record.shown[0]):
            places.setdefault(name, set()).add(record.place)

    def key(row: Prediction) -> Key:
        candidates = (places.get(name, set()) for name in reversed(names_of(row.shown[0])))
        return next(((next(iter(place)),) for place in candidates if len(place) == 1), row.shown)

    return key


def names_of(clip: str) -> Sequence[str]:
    """Return the names that files give a clip: ``a/dia0_utt1.mp4`` -> ``dia0_utt1``, ``a_dia0_utt1``."""
    *folders, last = clip.replace("$_$", "/").split("/")
    stem, _, suffix = last.rpartition(".")
    stem = stem if suffix in _SUFFIXES else last
    return (stem, f"{folders[-1]}_{stem}") if folders else (stem,)


def _keyed(rows: Sequence[Prediction], key_of: Callable[[Prediction], Key]) -> Mapping[Key, Prediction]:
    table: dict[Key, Prediction] = {}
    problems = []
    for row in rows:
        key = key_of(row)
        if key in table:
            problems.append(f"{row.label}: has the same key as {table[key].place}")
        table[key] = row
    if problems:
        raise RowErrors(problems, remedy=_REMEDY)
    return table
