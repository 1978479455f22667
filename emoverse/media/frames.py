"""Index the frames in checksummed tar shards and read them back by reference."""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from emoverse.errors import UserError
from emoverse.media.shards import Slot, shard_name
from emoverse.media.transform import decode, shape_of

FOLDER: Final = "frames"
INDEX: Final = "index.parquet"
# One row a frame. Rows are sorted by utterance_id; a clip's uniform frames come first, in order, then its peak.
SCHEMA: Final = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("kind", pa.string()),  # "uniform" or "peak"
        ("number", pa.int16()),  # place among the frames of its kind, from 0
        ("frame", pa.int32()),  # index of the frame in the clip
        ("shard", pa.int32()),  # NNNNN.tar
        ("offset", pa.int64()),  # bytes from the start of the shard
        ("length", pa.int32()),  # bytes
        ("crc32", pa.uint32()),
    ]
)
SHARDS_OPEN: Final = 64  # a million clips have more shards than a process may have files open
GREY: Final = 128

Row = tuple[str, str, int, int, Slot]


def write_index(path: Path, rows: Iterable[Row], *, batch: int = 65_536) -> int:
    """Write the index from (utterance_id, kind, number, frame, slot) rows, streaming; return the number of rows.

    Raises:
        ValueError: The ids are not in ascending order, which look-ups rely on.
    """
    count, last = 0, ""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        held: list[Row] = []
        for row in rows:
            if row[0] < last:
                raise ValueError(f"{row[0]!r} comes after {last!r}")
            last = row[0]
            held.append(row)
            count += 1
            if len(held) >= batch:
                writer.write_table(_table(held))
                held.clear()
        writer.write_table(_table(held))
    return count


def _table(rows: Sequence[Row]) -> pa.Table:
    plain = [(i, kind, n, f, s.shard, s.offset, s.length, s.crc32) for i, kind, n, f, s in rows]
    columns = list(zip(*plain, strict=True)) if plain else [()] * len(SCHEMA)
    return pa.table([pa.array(c, t) for c, t in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA)


@dataclass(frozen=True)
class _Index:
    """One folder's index in arrays: about 30 bytes a clip and 17 a frame, shared by forked processes."""

    ids: pa.Array  # (clips,) ascending
    starts: NDArray[np.int64]  # (clips + 1,) first row of each clip
    peak: NDArray[np.bool_]  # (frames,)
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    length: NDArray[np.int32]
    crc32: NDArray[np.uint32]

    def find(self, utterance_id: str) -> int:
        """Return the position of an id, or -1."""
        low, high = 0, len(self.ids)
        while low < high:
            middle = (low + high) // 2
            if self.ids[middle].as_py() < utterance_id:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self.ids) and self.ids[low].as_py() == utterance_id else -1

    def rows(self, utterance_id: str, peak: bool) -> list[int]:
        """Return the rows of a clip's uniform frames, or of its peak; empty for an unknown id."""
        at = self.find(utterance_id)
        if at < 0:
            return []
        return [r for r in range(int(self.starts[at]), int(self.starts[at + 1])) if bool(self.peak[r]) == peak]


class FrameStore:
    """Read the frames of ``clip:<utterance_id>``, ``...#peak``, ``...#blank`` and ``...#peak#blank``.

    Safe in a forked or spawned data-loader worker: files are read by position, and each process opens them for itself.
    An unknown id raises UserError. So does a frame whose bytes differ from those that its CRC-32 was computed of: a
    JPEG with one flipped byte would usually decode to other pixels without an error.

    Args:
        folders: Outputs of validate.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [Path(folder) for folder in folders]
        self._indices = [_load(folder / FOLDER / INDEX) for folder in self.folders]
        self._files: OrderedDict[tuple[int, int, int], int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"folders": self.folders}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folders"])  # type: ignore[misc]

    def __len__(self) -> int:
        """Return the number of clips."""
        return sum(len(index.ids) for index in self._indices)

    def __contains__(self, reference: object) -> bool:
        """Return whether the store has the frames of a reference."""
        return isinstance(reference, str) and self._find(reference)[1] is not None

    def __getitem__(self, reference: str) -> NDArray[np.uint8]:
        """Return uint8 RGB ``(frames, height, width, 3)``; mid-grey frames of the same shape for ``#blank``."""
        blank, location = self._find(reference)
        if location is None:
            remedy = "take utterances and frames from the same run of `emoverse validate`"
            raise UserError("no such clip among the frames", place=reference, remedy=remedy)
        blobs = self._read(*location, reference)
        if blank:
            return np.full((len(blobs), *shape_of(blobs[0])), GREY, dtype=np.uint8)
        return np.stack([decode(blob) for blob in blobs])

    def _find(self, reference: str) -> tuple[bool, tuple[int, list[int]] | None]:
        """Return (blank?, (folder number, index rows)); None in place of the pair for an unknown reference."""
        name = reference.removesuffix("#blank")
        blank = name != reference
        clip = name.removesuffix("#peak")
        peak = clip != name
        if not clip.startswith("clip:"):
            return blank, None
        for number, index in enumerate(self._indices):
            if rows := index.rows(clip.removeprefix("clip:"), peak):
                return blank, (number, rows)
        return blank, None

    def _read(self, folder: int, rows: list[int], reference: str) -> list[bytes]:
        index = self._indices[folder]
        shard = int(index.shard[rows[0]])  # a clip never spans two shards
        start = int(index.offset[rows[0]])
        end = int(index.offset[rows[-1]]) + int(index.length[rows[-1]])
        path = self.folders[folder] / FOLDER / shard_name(shard)
        # One read for all frames of a clip: they are stored together, and each request to a network disk takes time.
        whole = os.pread(self._open(folder, shard, path), end - start, start)
        blobs = []
        for row in rows:
            at = int(index.offset[row]) - start
            blob = whole[at : at + int(index.length[row])]
            if zlib.crc32(blob) != int(index.crc32[row]):
                problem = f"a frame of {reference!r} at byte {start + at} is not what was written"
                remedy = "remove the folder and run `dvc checkout` (or `emoverse validate` again)"
                raise UserError(problem, place=str(path), remedy=remedy)
            blobs.append(blob)
        return blobs

    def _open(self, folder: int, shard: int, path: Path) -> int:
        key = (os.getpid(), folder, shard)
        if key in self._files:
            self._files.move_to_end(key)
            return self._files[key]
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(
                f"the shard cannot be opened ({error.strerror})", place=str(path), remedy="run `dvc checkout`"
            ) from error
        self._files[key] = descriptor
        if len(self._files) > SHARDS_OPEN:
            os.close(self._files.popitem(last=False)[1])
        return descriptor

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)


def _load(path: Path) -> _Index:
    if not path.is_file():
        raise UserError("there is no index of frames", place=str(path), remedy="run `emoverse validate` first")
    table = pq.read_table(path, columns=["utterance_id", "kind", "shard", "offset", "length", "crc32"])
    names = table["utterance_id"].combine_chunks()
    if isinstance(names, pa.ChunkedArray):
        names = names.chunk(0) if names.num_chunks else pa.array([], pa.string())
    # Where an id differs from the row before, a clip starts.
    count = len(names)
    fresh = np.ones(count, dtype=bool)
    if count > 1:
        fresh[1:] = pc.not_equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)
    starts = np.append(np.flatnonzero(fresh), count).astype(np.int64)
    columns = {name: table[name].to_numpy() for name in ("shard", "offset", "length", "crc32")}
    peak = pc.equal(table["kind"], "peak").to_numpy()
    return _Index(names.take(pa.array(starts[:-1])), starts, peak, **columns)
