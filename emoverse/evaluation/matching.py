"""Tell which predictions and gold records are about the same thing, and list those that are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from emoverse.errors import RowErrors

Key = tuple[str, ...]
_REMEDY: Final = "give every row its id (channel), or its clip and question, as the model was given them"


@dataclass(frozen=True)
class Prediction:
    """One reply to one gold record, or (without a reply) the record itself.

    ``name`` is what it is called in messages. ``channel`` is our id of the row, where the file has it; ``shown`` the
    clip and the question, which tell rows apart in files made elsewhere. ``own`` is the gold that the row itself
    carried.
    """

    place: str
    name: str
    channel: str
    shown: tuple[str, str]
    reply: str
    gold: dict[str, Any]
    group: str
    own: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Return where it stands and what it is called, for a message."""
        return self.place if self.name == self.place else f"{self.place}: {self.name}"

    @property
    def key(self) -> Key:
        """Return what tells the row from others, () where nothing does: equal words may be said in many clips."""
        if self.channel:
            return (self.channel,)
        return self.shown if self.shown[0] else ()


def repeats(found: Sequence[Prediction]) -> list[str]:
    """List rows that answer what an earlier row answered."""
    seen: dict[Key, str] = {}
    problems = []
    for one in found:
        if not one.key:
            continue
        if one.key in seen:
            problems.append(f"{one.label}: answered at {seen[one.key]} already")
        seen.setdefault(one.key, one.place)
    return problems


def against_gold(found: Sequence[Prediction], records: Sequence[Prediction]) -> tuple[list[Prediction], list[str]]:
    """Pair predictions with gold records; the record's gold counts, a different one in the file is a problem.

    Raises RowErrors when nothing tells the rows of either file apart.
    """
    told, known = _tables(found, records)
    problems = [f"{one.label}: not a record of the gold file" for k, one in told.items() if k not in known]
    problems += [f"{one.label}: has no prediction" for key, one in known.items() if key not in told]
    pairs = [(one, known[key]) for key, one in told.items() if key in known]
    problems += [problem for one, record in pairs for problem in _changed(one, record)]
    return [replace(one, gold=record.gold, group=record.group) for one, record in pairs], problems


def _changed(one: Prediction, record: Prediction) -> list[str]:
    """List how a row's own gold differs from the record's: its answer, and what else it carries along."""
    if one.gold["answer"] != record.gold["answer"]:
        told, right = repr(one.gold["answer"]), repr(record.gold["answer"])
        return [f"{one.label}: the answer is {right} ({record.place}), the file says {told}"]
    keys = sorted(one.own.keys() & record.own.keys())
    return [
        f"{one.label}: gold.{key} is {record.own[key]!r} ({record.place}), the file says {one.own[key]!r}"
        for key in keys
        if one.own[key] != record.own[key]
    ]


def paired(one: Sequence[Prediction], other: Sequence[Prediction]) -> tuple[list[Prediction], list[str]]:
    """Return ``other`` in the order of ``one``, and what does not fit.

    Files whose rows nothing tells apart are paired line by line, which their right answers must bear out.
    """
    problems: list[str] = []
    if len(one) == len(other) and not all(item.key for item in (*one, *other)):
        pairs = list(zip(one, other, strict=True))
    else:
        first, second = _tables(one, other)
        strangers = [item for key, item in first.items() if key not in second]
        strangers += [item for key, item in second.items() if key not in first]
        problems += [f"{item.label}: not in the other file" for item in strangers]
        pairs = [(item, second[key]) for key, item in first.items() if key in second]
    problems += [f"{a.label}: another answer at {b.place}" for a, b in pairs if a.gold["answer"] != b.gold["answer"]]
    return [b for _, b in pairs], problems


def _tables(
    one: Sequence[Prediction], other: Sequence[Prediction]
) -> tuple[Mapping[Key, Prediction], Mapping[Key, Prediction]]:
    """Key both files alike: by our ids where all rows have one, else by clip and question."""
    ids = all(item.channel for item in (*one, *other))
    tables: list[dict[Key, Prediction]] = []
    for items in (one, other):
        table: dict[Key, Prediction] = {}
        problems = []
        for item in items:
            key = (item.channel,) if ids else item.shown
            if key in table:
                problems.append(f"{item.label}: cannot be told from {table[key].place}")
            table[key] = item
        if problems:
            raise RowErrors(problems, remedy=_REMEDY)
        tables.append(table)
    return tables[0], tables[1]
