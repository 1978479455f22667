"""Hold one validated corpus in columns, and yield its dialogues in one fixed order.

The order is (split, dialogue, position), dialogue numbers as numbers: that of the published files, and the same
whatever order the rows were read in. A million utterances take some 300 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from emoverse import tables as schemas
from emoverse.corpora.base import SPLITS, Utterance
from emoverse.errors import UserError

_BATCH: Final = 8192
UTTERANCES: Final = "utterances.parquet"
UNITS: Final = "action_units.parquet"
Scenery = tuple[list[Utterance], list[dict[str, float] | None]]
"""A dialogue's utterances, and the action units of each one's peak (None where nobody measured)."""


class CorpusTable:
    """One corpus: ``name``, its utterances as a sorted Arrow table, and the intensities of its action units."""

    def __init__(self, table: Any, units: Any = None, *, folder: Path = Path()) -> None:
        names = table["corpus"].unique().to_pylist()
        if len(names) != 1:
            remedy = "validate each corpus by itself"
            raise UserError(f"holds {len(names)} corpora, not one", place=str(folder), remedy=remedy)
        self.name, self.folder = str(names[0]), folder
        self.table = table.take(pa.array(_order(table))).combine_chunks()
        self.units = _Units(units) if units is not None else None

    @classmethod
    def open(cls, folder: Path) -> CorpusTable:
        """Read a folder that ``validate`` wrote; raise UserError when it has no utterances."""
        path = folder / UTTERANCES
        table = pq.read_table(path)
        if table.num_rows == 0:
            raise UserError("has no utterances", place=str(path), remedy="look at quarantine.parquet beside it")
        units = pq.read_table(folder / UNITS) if (folder / UNITS).is_file() else None
        return cls(table, units if units is not None and units.num_rows else None, folder=folder)

    @classmethod
    def of(cls, utterances: Sequence[Utterance]) -> CorpusTable:
        """Hold utterances of one corpus that were just read."""
        names = schemas.UTTERANCES.names
        columns = zip(*map(attrgetter(*names), utterances), strict=True)
        return cls(pa.table(dict(zip(names, columns, strict=True)), schema=schemas.UTTERANCES))

    def column(self, name: str) -> list[Any]:
        """Return one column as a list, in the fixed order."""
        return list(self.table[name].to_pylist())

    def dialogues(self) -> Iterator[Scenery]:
        """Yield each dialogue, utterances by position."""
        held: list[Utterance] = []
        for batch in self.table.to_batches(max_chunksize=_BATCH):
            for one in _utterances(batch):
                if held and (held[0].dialogue_id != one.dialogue_id or held[0].split != one.split):
                    yield held, self._faces(held)
                    held = []
                held.append(one)
        if held:
            yield held, self._faces(held)

    def _faces(self, dialogue: list[Utterance]) -> list[dict[str, float] | None]:
        if self.units is None:
            return [None] * len(dialogue)
        return [self.units.of(one.utterance_id) for one in dialogue]


def _utterances(batch: Any) -> Iterator[Utterance]:
    """Yield a batch's rows."""
    names = batch.schema.names
    numbers = [names.index(name) for name in ("intensities", "causes")]
    columns = [column.to_pylist() for column in batch.columns]
    for i in numbers:
        columns[i] = [None if cell is None else tuple(cell) for cell in columns[i]]
    for row in zip(*columns, strict=True):
        # A frozen class's constructor sets field by field and takes four times as long; these rows were checked.
        one = object.__new__(Utterance)
        vars(one).update(zip(names, row, strict=True))
        yield one


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


def _order(table: Any) -> NDArray[np.int64]:
    """Return the row numbers in the fixed order."""
    dialogues = table["dialogue_id"].combine_chunks().dictionary_encode()
    names = dialogues.dictionary.to_pylist()
    rank = np.empty(len(names), dtype=np.int64)
    rank[sorted(range(len(names)), key=lambda i: natural(names[i]))] = np.arange(len(names))
    splits = table["split"].combine_chunks().dictionary_encode()
    split_rank = np.array([SPLITS.index(name) for name in splits.dictionary.to_pylist()], dtype=np.int64)
    keys = (table["position"].to_numpy(), rank[dialogues.indices.to_numpy()], split_rank[splits.indices.to_numpy()])
    return np.asarray(np.lexsort(keys), dtype=np.int64)
