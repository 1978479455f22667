"""Hold one validated corpus in columns, and yield its dialogues in one fixed order.

The order is (split, dialogue, position), dialogue numbers as numbers: that of the published files, and the same
whatever order the rows were read in. A million utterances take some 300 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from emoverse.corpora.base import SPLITS, Utterance
from emoverse.errors import UserError

_BATCH: Final = 8192
_REPEATED: Final = ("split", "speaker", "emotion", "episode")
UTTERANCES: Final = "utterances.parquet"
UNITS: Final = "action_units.parquet"
Scenery = tuple[list[Utterance], list[dict[str, float] | None]]
"""A dialogue's utterances, and the action units of each one's peak (None where nobody measured)."""


class CorpusTable:
    """One corpus in the fixed order: its ``name``, its utterances, and the intensities of its action units."""

    def __init__(self, rows: _Stored | _Spoken, units: Any = None, *, folder: Path = Path()) -> None:
        names = rows.corpora()
        if len(names) != 1:
            remedy = "validate each corpus by itself"
            raise UserError(f"holds {len(names)} corpora, not one", place=str(folder), remedy=remedy)
        self.name, self.folder, self._rows = names[0], folder, rows
        self.units = _Units(units) if units is not None else None

    @classmethod
    def open(cls, folder: Path) -> CorpusTable:
        """Read a folder that ``validate`` wrote; raise UserError when it has no utterances."""
        path = folder / UTTERANCES
        table = pq.read_table(path)
        if table.num_rows == 0:
            raise UserError("has no utterances", place=str(path), remedy="look at quarantine.parquet beside it")
        units = pq.read_table(folder / UNITS) if (folder / UNITS).is_file() else None
        return cls(_Stored(table), units if units is not None and units.num_rows else None, folder=folder)

    @classmethod
    def of(cls, utterances: Sequence[Utterance]) -> CorpusTable:
        """Hold utterances of one corpus that were just read."""
        return cls(_Spoken(utterances))

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self._rows)

    def columns(self, *names: str) -> list[Sequence[Any]]:
        """Return some columns, in the fixed order."""
        return self._rows.columns(names)

    def dialogues(self) -> Iterator[Scenery]:
        """Yield each dialogue, utterances by position."""
        for held in self._rows.dialogues():
            yield held, [self.units.of(one.utterance_id) for one in held] if self.units else [None] * len(held)


class _Stored:
    """Utterances as an Arrow table; a million take some 300 MB."""

    def __init__(self, table: Any) -> None:
        dialogues, splits = (table[name].combine_chunks().dictionary_encode() for name in ("dialogue_id", "split"))
        names, numbers = dialogues.dictionary.to_pylist(), dialogues.indices.to_numpy()
        split_rank = np.array([SPLITS.index(name) for name in splits.dictionary.to_pylist()], dtype=np.int64)
        order = np.lexsort(
            (table["position"].to_numpy(), _ranks(names)[numbers], split_rank[splits.indices.to_numpy()])
        )
        self._table = table.take(pa.array(order)).combine_chunks()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def corpora(self) -> list[str]:
        return list(self._table["corpus"].unique().to_pylist())

    def columns(self, names: Sequence[str]) -> list[Sequence[Any]]:
        return [_words(self._table[name]) if name in _REPEATED else self._table[name].to_pylist() for name in names]

    def dialogues(self) -> Iterator[list[Utterance]]:
        for _, dialogue in groupby(self._utterances(), key=attrgetter("split", "dialogue_id")):
            yield list(dialogue)

    def _utterances(self) -> Iterator[Utterance]:
        names = self._table.schema.names
        numbers = [names.index(name) for name in ("intensities", "causes")]
        for batch in self._table.to_batches(max_chunksize=_BATCH):
            columns = [column.to_pylist() for column in batch.columns]
            for i in numbers:
                columns[i] = [None if cell is None else tuple(cell) for cell in columns[i]]
            for row in zip(*columns, strict=True):
                yield Utterance(**dict(zip(names, row, strict=True)))


def _words(column: Any) -> list[str | None]:
    """Return a column of words that occur many times: equal ones are one object."""
    coded = column.combine_chunks().dictionary_encode()
    known = [*coded.dictionary.to_pylist(), None]
    return [known[i] for i in coded.indices.fill_null(len(known) - 1).to_pylist()]


class _Spoken:
    """Utterances as they were read."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        found: dict[tuple[str, str], list[Utterance]] = {}
        for key, dialogue in groupby(utterances, key=attrgetter("split", "dialogue_id")):
            found.setdefault(key, []).extend(dialogue)
        order = sorted(found, key=lambda key: (SPLITS.index(key[0]), natural(key[1])))
        self._dialogues = [sorted(found[key], key=attrgetter("position")) for key in order]

    def __len__(self) -> int:
        return sum(map(len, self._dialogues))

    def corpora(self) -> list[str]:
        return sorted({one.corpus for dialogue in self._dialogues for one in dialogue})

    def columns(self, names: Sequence[str]) -> list[Sequence[Any]]:
        every = list(chain.from_iterable(self._dialogues))
        return [list(map(attrgetter(name), every)) for name in names]

    def dialogues(self) -> Iterator[list[Utterance]]:
        return iter(self._dialogues)


class _Units:
    """Intensities of action units by utterance: one float32 matrix, and where each id's row is."""

    def __init__(self, table: Any) -> None:
        columns = [name for name in table.column_names if name.startswith("AU") and name.endswith("_r")]
        self._names = [name.removesuffix("_r") for name in columns]
        self._values = np.column_stack([table[name].to_numpy() for name in columns]).astype(np.float32)
        self._row = {name: i for i, name in enumerate(table["utterance_id"].to_pylist())}

    def of(self, utterance_id: str) -> dict[str, float] | None:
        row = self._row.get(utterance_id)
        return None if row is None else dict(zip(self._names, self._values[row].tolist(), strict=True))


def natural(name: str) -> tuple[int, int, str]:
    """Return a sort key that puts numbers first, by value, then names by code point."""
    return (0, int(name), name) if name.isascii() and name.isdigit() else (1, 0, name)


def _ranks(names: Sequence[str]) -> NDArray[np.int64]:
    """Return the place of each name in natural order."""
    rank = np.empty(len(names), dtype=np.int64)
    rank[sorted(range(len(names)), key=lambda i: natural(names[i]))] = np.arange(len(names))
    return rank
