"""Read every clip of a corpus once: probe and frames in one pass, resumable after a kill.

The folder grows clip by clip, in the order of the tasks: frames go to a shard, then one line about the clip goes to
``journal.jsonl``. A run that finds a journal of the same tasks (``fingerprint``) continues after its last whole line.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

from emoverse.errors import UserError
from emoverse.media.action_units import NOT_MEASURED
from emoverse.media.probe import Probe
from emoverse.media.shards import ShardWriter, Slot, shard_name
from emoverse.media.workers import Done, Lost, Pool, Task, process
from emoverse.progress import progress

JOURNAL: Final = "journal.jsonl"
LOST: Final = {"timeout": "clip-timeout", "crash": "clip-crashed-decoder"}
PATIENCE: Final = 10.0  # times the limit, for a clip that is read once more, alone
Reader = Callable[[Task], Done | Lost]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of the journal: ``slots`` are (kind, number, frame index, slot in a shard)."""

    clip_id: str
    probe: Probe | None
    slots: list[tuple[str, int, int, Slot]]
    peak: tuple[int, list[float]] | None
    note: str
    failure: tuple[str, str] | None
    end: int  # where the shard ends after this clip, for going on


def extract(
    tasks: Sequence[Task],
    folder: Path,
    *,
    fingerprint: str,
    workers: int | None = None,
    label: str = "",
    read: Reader = process,
    patience: float = PATIENCE,
) -> int:
    """Write shards and the journal below ``folder``; return how many clips an earlier run had finished already.

    The result is the same for any number of workers and any number of interruptions. A clip that timed out, or whose
    process died, is read once more, alone and with ``patience`` times the limit, before it counts as broken, and again
    when a run is resumed.

    Args:
        tasks: The clips to read, in the order of the result.
        folder: Scratch folder.
        fingerprint: Stands for everything that the result depends on: content of the clips, parameters, code.
        workers: Number of processes; None for one per core.
        label: Printed before the progress; empty shows none.
        read: Reads one clip in a worker process; it is pickled, so it must be a function of a module.
        patience: Factor of the time limit for the second attempt.

    Raises:
        UserError: The machine lacks the memory to read a clip.
    """
    second = partial(_read_alone, read=read, patience=patience)
    writer, finished = _resume(tasks, folder, fingerprint, second)
    todo = tasks[finished:]
    if not todo:
        writer.close()
        return finished
    pool: Pool[Task, Done] = Pool(read, timeout=max(task.limit for task in todo), workers=workers)
    with (
        (folder / JOURNAL).open("a", encoding="utf-8", newline="\n") as journal,
        progress(label, len(tasks), finished) as step,
    ):
        for task, answer in zip(todo, pool.map(todo), strict=True):
            done = answer
            if isinstance(done, Lost):
                pool.drain()
                done = second(task, done)
            blobs = [(member(task, f.kind, f.number), f.blob) for f in done.frames]
            slots = writer.add(blobs) if blobs else []
            journal.write(line_of(_record_of(task, done, slots, writer.end)))
            journal.flush()  # a killed process loses nothing it has handed to the system
            step()
    writer.close()
    return finished


def records(folder: Path) -> Iterator[Record]:
    """Yield the journal's records in the order of the tasks."""
    with (folder / JOURNAL).open(encoding="utf-8") as journal:
        next(journal)
        for line in journal:
            yield _record(json.loads(line))


def _read_alone(task: Task, lost: Lost | None, *, read: Reader, patience: float) -> Done:
    """Read a clip once more, in a fresh process and with a longer limit; ``lost`` is the result of the first attempt.

    A measurer that worked inside the lost process may be the cause, and is left out.
    """
    unsafe = task.units is None and task.measurer is not None and not task.measurer.own_process
    retried = replace(task, patience=patience, measurer=None if unsafe else task.measurer)
    pool: Pool[Task, Done] = Pool(read, timeout=retried.limit, workers=1)
    answer = next(pool.map([retried]))
    first = lost.detail if lost else "an earlier run gave it up"
    if isinstance(answer, Done):
        return replace(answer, note=f"{NOT_MEASURED}: {first}") if unsafe else answer
    if answer.kind in ("memory", "killed"):
        raise UserError(
            f"the machine cannot decode it: {first}; alone: {answer.detail}",
            place=task.clip,
            remedy="free some memory (or raise the container's limit) and run again, or leave the clip out",
        )
    return Done(failure=(LOST[answer.kind], f"{first}; alone: {answer.detail}"))


def _resume(
    tasks: Sequence[Task], folder: Path, fingerprint: str, second: Callable[[Task, None], Done]
) -> tuple[ShardWriter, int]:
    """Return a writer that continues after the last finished clip, and the number of finished clips.

    A clip that was given up is tried again; when it can be read now, the run continues from there.
    """
    head = _head(fingerprint)
    path = folder / JOURNAL
    finished, clips, size = 0, 0, len(head.encode())
    last: Record | None = None
    try:
        with path.open("rb") as journal:
            usable = journal.readline() == head.encode()
            for task, line in zip(tasks, journal if usable else (), strict=False):
                try:
                    record = _record(json.loads(line))
                except ValueError:
                    break  # the line being written when the process was killed
                if not line.endswith(b"\n") or record.clip_id != task.clip_id:
                    break
                if record.failure and record.failure[0] in LOST.values() and second(task, None).failure is None:
                    break
                finished, size = finished + 1, size + len(line)
                if record.slots:
                    clips = 1 if last is None or record.slots[0][3].shard != last.slots[0][3].shard else clips + 1
                    last = record
    except FileNotFoundError:
        usable = False
    if last is not None and not _holds(folder, last):
        # After a power failure, blocks that were not written yet are missing.
        usable, finished, size, last = False, 0, len(head.encode()), None
    if not usable:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        begin(folder, fingerprint).close()
    with path.open("r+b") as journal:
        journal.truncate(size)
    if last is None:
        return ShardWriter(folder), finished
    return ShardWriter(folder, shard=last.slots[0][3].shard, end=last.end, clips=clips), finished


def _holds(folder: Path, last: Record) -> bool:
    shard = folder / shard_name(last.slots[0][3].shard)
    return shard.is_file() and shard.stat().st_size >= last.end


def begin(folder: Path, fingerprint: str) -> TextIO:
    """Start an empty journal below ``folder``, which is there; return it, open for appending."""
    journal = (folder / JOURNAL).open("w", encoding="utf-8", newline="\n")
    journal.write(_head(fingerprint))
    return journal


def _head(fingerprint: str) -> str:
    return json.dumps({"fingerprint": fingerprint}) + "\n"


def member(task: Task, kind: str, number: int) -> str:
    """Return the name of a frame in its shard."""
    return f"{task.clip_id}.{kind}{number}.{task.params.encoding}"


def _record_of(task: Task, done: Done, slots: list[Slot], end: int) -> Record:
    places: list[tuple[str, int, int, Slot]] = [
        (f.kind, f.number, f.frame, slot) for f, slot in zip(done.frames, slots, strict=True)
    ]
    return Record(
        clip_id=task.clip_id, probe=done.probe, slots=places, peak=done.peak, note=done.note, failure=done.failure,
        end=end,
    )  # fmt: skip


def line_of(record: Record) -> str:
    """Return a record as its line of the journal."""
    value = {
        "clip_id": record.clip_id,
        "probe": asdict(record.probe) if record.probe else None,
        "slots": [[kind, number, frame, *_plain(slot)] for kind, number, frame, slot in record.slots],
        "peak": record.peak,
        "note": record.note,
        "failure": record.failure,
        "end": record.end,
    }
    return json.dumps(value, ensure_ascii=False) + "\n"


def _plain(slot: Slot) -> tuple[int, int, int, int]:
    return slot.shard, slot.offset, slot.length, slot.crc32


def _record(value: Any) -> Record:
    return Record(
        clip_id=value["clip_id"],
        probe=Probe(**value["probe"]) if value["probe"] else None,
        slots=[(kind, number, frame, Slot(*where)) for kind, number, frame, *where in value["slots"]],
        peak=(value["peak"][0], value["peak"][1]) if value["peak"] else None,
        note=value["note"],
        failure=(value["failure"][0], value["failure"][1]) if value["failure"] else None,
        end=value["end"],
    )


def join(parts: Sequence[Path], folder: Path, tasks: Sequence[Task], *, label: str = "") -> None:
    """Write ``folder`` as ``extract`` would over all ``tasks``, from its folders of consecutive shares of them.

    Args:
        parts: The folders, in the order of their tasks.
        folder: Folder to write.
        tasks: All clips of the corpus.
        label: Printed before the progress; empty shows none.

    Raises:
        UserError: A part has other clips than its share, or a frame is not what was written.
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
    stored = ((part, record) for part in parts for record in records(part))
    count = 0
    for task, (part, record) in zip(tasks, stored, strict=False):
        if record.clip_id != task.clip_id:
            raise UserError(f"holds {record.clip_id!r} where {task.clip_id!r} belongs", place=str(part), remedy=_REMEDY)
        yield task, (part, record)
        count += 1
    if count < len(tasks) or next(stored, None) is not None:
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
