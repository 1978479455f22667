"""Put the parts of a pass together as one pass would have written them."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from emoverse.errors import UserError
from emoverse.media.extract import Record, begin, line_of, member, records
from emoverse.media.progress import progress
from emoverse.media.shards import ShardWriter, Slot, shard_name
from emoverse.media.work import Task


def join(parts: Sequence[Path], folder: Path, tasks: Sequence[Task], *, label: str = "") -> None:
    """Write ``folder`` as ``extract`` would over all ``tasks``, from folders it wrote over consecutive shares of them.

    Raises UserError for a part with other clips than its share, and for a frame that is not what was written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    writer = ShardWriter(folder)
    with begin(folder, "joined") as journal, progress(label, len(tasks)) as step, ExitStack() as files:
        held = _Shards(files)
        for task, (part, record) in _paired(tasks, parts):
            slots = [where for _, _, _, where in record.slots]
            blobs = [held.read(part, slot) for slot in slots]
            names = [member(task, kind, number) for kind, number, _, _ in record.slots]
            fresh = writer.add(list(zip(names, blobs, strict=True))) if blobs else []
            moved = [(kind, n, f, slot) for (kind, n, f, _), slot in zip(record.slots, fresh, strict=True)]
            journal.write(line_of(replace(record, slots=moved, end=writer.end)))
            step()
    writer.close()


def _paired(tasks: Sequence[Task], parts: Sequence[Path]) -> Iterator[tuple[Task, tuple[Path, Record]]]:
    found = ((part, record) for part in parts for record in records(part))
    count = 0
    for task, (part, record) in zip(tasks, found, strict=False):
        if record.clip_id != task.clip_id:
            raise UserError(f"holds {record.clip_id!r} where {task.clip_id!r} belongs", place=str(part), remedy=_REMEDY)
        yield task, (part, record)
        count += 1
    if count < len(tasks) or next(found, None) is not None:
        raise UserError(f"not the corpus's {len(tasks)} clips", place=str(parts[-1]), remedy=_REMEDY)


_REMEDY = "make all parts again from one corpus"


class _Shards:
    """The one shard that is being read; parts and their shards come in order."""

    def __init__(self, files: ExitStack) -> None:
        self._files, self._path = files, Path()
        self._open: BinaryIO | None = None

    def read(self, part: Path, slot: Slot) -> bytes:
        path = part / shard_name(slot.shard)
        if self._open is None or path != self._path:
            self._files.close()
            self._path, self._open = path, self._files.enter_context(path.open("rb"))
        self._open.seek(slot.offset)
        blob = self._open.read(slot.length)
        if zlib.crc32(blob) != slot.crc32:
            raise UserError(f"a frame at byte {slot.offset} is not what was written", place=str(path), remedy=_REMEDY)
        return blob
