"""Hold one validated corpus in memory and yield its dialogues in one fixed order.

The order is (split, dialogue, position), with numeric dialogue ids in numeric order: that of the published files, and
the same whatever order the rows were read in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from emoverse.artifacts.tables import read_utterances
from emoverse.corpora import SPLITS, Utterance
from emoverse.errors import UserError


class CorpusTable:
    """The utterances of one corpus in the fixed order, and the action units measured at their peak frames."""

    def __init__(self, utterances: Sequence[Utterance], units: Any = None, *, folder: Path = Path()) -> None:
        """Sort the utterances of one corpus; ``units`` is a table of ``action_units.parquet``."""
        names = sorted({utterance.corpus for utterance in utterances})
        if len(names) != 1:
            problem = f"has {len(names)} corpora, expected 1"
            raise UserError(problem, place=str(folder), remedy="validate each corpus separately")
        self.name, self.folder = names[0], folder
        self.utterances = sorted(utterances, key=_order)
        self._unit_names: list[str] = []
        self._units: Mapping[str, Any] = {}
        if units is not None and units.num_rows:
            columns = [name for name in units.column_names if name.startswith("AU") and name.endswith("_r")]
            values = np.column_stack([units[name].to_numpy() for name in columns])  # float32: 70 bytes a row
            self._unit_names = [name.removesuffix("_r") for name in columns]
            self._units = dict(zip(units["utterance_id"].to_pylist(), values, strict=True))

    @classmethod
    def open(cls, folder: Path) -> CorpusTable:
        """Read an output folder of ``validate``; raise UserError when it has no utterances."""
        path, units = folder / "utterances.parquet", folder / "action_units.parquet"
        utterances = list(read_utterances(path))
        if not utterances:
            raise UserError("has no utterances", place=str(path), remedy="see quarantine.parquet beside it")
        return cls(utterances, pq.read_table(units) if units.is_file() else None, folder=folder)

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self.utterances)

    def dialogues(self) -> Iterator[list[Utterance]]:
        """Yield each dialogue's utterances by position."""
        for _, dialogue in groupby(self.utterances, key=attrgetter("split", "dialogue_id")):
            yield list(dialogue)

    def train_dialogues(self) -> list[str]:
        """Return the ids of the train dialogues, each once, in order."""
        return list(dict.fromkeys(item.dialogue_id for item in self.utterances if item.split == "train"))

    def with_validation(self, dialogues: Collection[str]) -> CorpusTable:
        """Return a table in which these train dialogues are the validation split; ids and clips stay as they are."""
        table = CorpusTable(
            [
                replace(item, split="validation") if item.split == "train" and item.dialogue_id in dialogues else item
                for item in self.utterances
            ],
            folder=self.folder,
        )
        table._unit_names, table._units = self._unit_names, self._units
        return table

    def units(self, utterance_id: str) -> dict[str, float] | None:
        """Return the intensity (0..5) of each action unit (``AU01`` ...), None where none were measured."""
        values = self._units.get(utterance_id)
        return None if values is None else dict(zip(self._unit_names, values.tolist(), strict=True))


def natural(name: str) -> tuple[int, int, str]:
    """Return a sort key that puts numbers first, by value, then names by code point."""
    return (0, int(name), name) if name.isascii() and name.isdigit() else (1, 0, name)


def _order(utterance: Utterance) -> tuple[int, tuple[int, int, str], int]:
    return SPLITS.index(utterance.split), natural(utterance.dialogue_id), utterance.position
