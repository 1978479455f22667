"""Write frames to tar shards, one after another, so that a run that was killed continues where it stopped.

Without pyarrow, which neither the decoding workers nor an exported model's predictions need.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

MAX_BYTES: Final = 256 << 20
MAX_CLIPS: Final = 512
SHARDS: Final = "[0-9]*.tar"
_BLOCK: Final = 512
_RECORD: Final = 20 * _BLOCK  # tar files end on a whole record


@dataclass(frozen=True)
class Slot:
    """Location of one frame: ``offset`` and ``length`` in bytes within shard number ``shard``, and its CRC-32."""

    shard: int
    offset: int
    length: int
    crc32: int


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"{number:05d}.tar"


class ShardWriter:
    """Append clips to shards; a clip's frames are stored one after the other in one shard.

    ``end`` is where the next clip starts. A writer made with the ``shard``, ``end`` and ``clips`` of an interrupted one
    continues from there, and cuts off what was half written.

    Args:
        folder: Where the shards are.
        shard: Number of the current shard.
        end: Bytes of the current shard that are complete.
        clips: Clips in the current shard.
    """

    def __init__(self, folder: Path, *, shard: int = 0, end: int = 0, clips: int = 0) -> None:
        self.folder, self.shard, self.end, self.clips = folder, shard, end, clips
        folder.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO | None = None
        if end:
            self._file = (folder / shard_name(shard)).open("r+b")
            self._file.truncate(end)
            self._file.seek(end)

    def add(self, frames: Sequence[tuple[str, bytes]]) -> list[Slot]:
        """Write one clip's ``(member name, bytes)``; return a slot for each, once the system has the bytes."""
        size = sum(len(blob) for _, blob in frames)
        if self._file is not None and (self.clips >= MAX_CLIPS or self.end + size > MAX_BYTES):
            self._finish()
            self.shard, self.end, self.clips = self.shard + 1, 0, 0
        if self._file is None:
            self._file = (self.folder / shard_name(self.shard)).open("wb")
        slots = [self._write(name, blob) for name, blob in frames]
        self._file.flush()
        self.clips += 1
        return slots

    def close(self) -> None:
        """Finish the last shard."""
        if self._file is not None:
            self._finish()

    def _write(self, name: str, blob: bytes) -> Slot:
        assert self._file is not None
        member = tarfile.TarInfo(name)  # its defaults have no clock and no owner: mtime, uid and gid are 0
        member.size = len(blob)
        header = member.tobuf(tarfile.PAX_FORMAT)
        padding = -len(blob) % _BLOCK
        self._file.write(header + blob + b"\0" * padding)
        slot = Slot(self.shard, self.end + len(header), len(blob), zlib.crc32(blob))
        self.end += len(header) + len(blob) + padding
        return slot

    def _finish(self) -> None:
        assert self._file is not None
        tail = 2 * _BLOCK
        self._file.write(b"\0" * (tail + -(self.end + tail) % _RECORD))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
