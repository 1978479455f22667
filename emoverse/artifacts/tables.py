"""Write and read the Parquet tables that steps exchange.

Everything is streamed in row groups, so a table of a million utterances needs no more memory than a small one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from emoverse.corpora import Quarantined, Utterance
from emoverse.errors import UserError

BATCH: Final = 16_384  # rows in a row group

# One row an Utterance (corpora/__init__.py says what each column means); sorted by utterance_id.
UTTERANCES: Final = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # train | validation | test
        pa.field("dialogue_id", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("speaker", pa.string()),
        pa.field("text", pa.string(), nullable=False),
        pa.field("emotion", pa.string()),  # one of EMOTIONS
        pa.field("polarity", pa.string()),  # negative | neutral | positive
        pa.field("sentiment", pa.float64()),  # -3..3
        pa.field("intensities", pa.list_(pa.float64())),  # happy, sad, anger, surprise, disgust, fear; 0..3
        pa.field("causes", pa.list_(pa.int32())),
        pa.field("episode", pa.string()),
        pa.field("start", pa.float64()),  # seconds
        pa.field("end", pa.float64()),  # seconds
        pa.field("clip", pa.string(), nullable=False),  # relative to the corpus root
        pa.field("source", pa.string(), nullable=False),  # file:row
    ]
)
# One row an utterance that passed: facts of its clip.
PROBES: Final = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("clip", pa.string(), nullable=False),
        pa.field("duration", pa.float64()),  # seconds, of the pictures; null where the file has no times
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("fps", pa.float64()),  # frames over duration
        pa.field("width", pa.int32(), nullable=False),  # pixels as shown, rotation applied
        pa.field("height", pa.int32(), nullable=False),
        pa.field("codec", pa.string(), nullable=False),
        pa.field("rotation", pa.int16(), nullable=False),  # degrees clockwise
        pa.field("has_audio", pa.bool_(), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),  # pyav
        pa.field("hdr", pa.bool_(), nullable=False),  # high dynamic range, not tone-mapped
        pa.field("black", pa.float64()),  # share of the chosen frames
        pa.field("frozen", pa.float64()),  # share of the chosen frames that equal the one before; null for one frame
        pa.field("silent", pa.bool_()),  # the whole sound track; null without one that can be decoded
        pa.field("duration_gap", pa.float64()),  # seconds between duration and the annotated span, null without a span
    ]
)
# One row a row or file that was set aside.
QUARANTINE: Final = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # file:row, or a file without an annotation
        pa.field("clip", pa.string(), nullable=False),  # relative to the corpus root; empty where the row does not say
        pa.field("column", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # a stable code
        pa.field("detail", pa.string(), nullable=False),  # what exactly, as the decoder or expectation reports it
        pa.field("known", pa.bool_(), nullable=False),  # listed in validation/known_media.json
    ]
)


@dataclass(frozen=True, kw_only=True)
class ActionUnitRow:
    """The face of one utterance at its peak: ``intensities`` maps OpenFace's names (``AU01_r`` ...) to 0..5."""

    utterance_id: str
    frame: int  # index in the clip, from 0
    intensities: Mapping[str, float]


def write_table(path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as Parquet, one row group at a time; return how many. The same rows give the same bytes."""
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for held in _batches(rows, BATCH):
            writer.write_table(pa.Table.from_pylist(list(held), schema=schema))
            count += len(held)
        if not count:
            writer.write_table(schema.empty_table())
    return count


def read_table(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file as plain dicts; raise UserError for a missing file."""
    if not path.is_file():
        raise UserError("no such table", place=str(path), remedy="run the step that writes it (`dvc repro`)")
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches(batch_size=BATCH, columns=list(columns) if columns else None):
            yield from batch.to_pylist()


def write_utterances(path: Path, utterances: Iterable[Utterance]) -> int:
    """Write ``utterances.parquet``; return the number of rows."""
    names = [f.name for f in fields(Utterance)]
    return write_table(path, UTTERANCES, ({name: getattr(u, name) for name in names} for u in utterances))


def read_utterances(path: Path) -> Iterator[Utterance]:
    """Yield the utterances of ``utterances.parquet``, equal to those that were written."""
    for row in read_table(path):
        for name in ("intensities", "causes"):
            row[name] = None if row[name] is None else tuple(row[name])
        yield Utterance(**row)


def write_quarantine(path: Path, rows: Iterable[tuple[Quarantined, bool]]) -> int:
    """Write ``quarantine.parquet`` from (row, known beforehand?) pairs; return the number of rows."""
    names = [name for name in QUARANTINE.names if name != "known"]
    return write_table(path, QUARANTINE, ({n: getattr(q, n) for n in names} | {"known": known} for q, known in rows))


def action_unit_schema(units: Sequence[str]) -> pa.Schema:
    """Return the columns of ``action_units.parquet``: utterance_id, frame, and one float column for each unit."""
    head = [pa.field("utterance_id", pa.string(), nullable=False), pa.field("frame", pa.int32(), nullable=False)]
    return pa.schema([*head, *(pa.field(unit, pa.float32(), nullable=False) for unit in units)])


def write_action_units(path: Path, units: Sequence[str], rows: Iterable[ActionUnitRow]) -> int:
    """Write ``action_units.parquet``, one row for each utterance whose face was measured; return the number."""
    plain = ({"utterance_id": r.utterance_id, "frame": r.frame, **r.intensities} for r in rows)
    return write_table(path, action_unit_schema(units), plain)


def read_action_units(path: Path) -> Iterator[ActionUnitRow]:
    """Yield the rows of ``action_units.parquet``; utterances without a measured face have none."""
    for row in read_table(path):
        utterance_id, frame = row.pop("utterance_id"), row.pop("frame")
        yield ActionUnitRow(utterance_id=utterance_id, frame=frame, intensities=row)


Row = TypeVar("Row")


def _batches(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) >= size:
            yield held
            held = []
    if held:
        yield held


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV with Unix line ends."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
