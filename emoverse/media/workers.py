"""Decode clips in worker processes that may crash or hang without taking the run with them."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

import av  # noqa: F401
import decord  # noqa: F401

from emoverse.config import MediaParams
from emoverse.media.action_units import ActionUnits, Measurer, read_action_units
from emoverse.media.decode import Frame, read_frames, still, uniform
from emoverse.media.probe import ClipError, Probe, tidy
from emoverse.media.transform import encode, picture

Item = TypeVar("Item")
Result = TypeVar("Result")

LIFETIME: Final = 2000  # items a process serves before a fresh one takes over: decoders leak a little
START_LIMIT: Final = 120.0  # seconds a process may take to import its libraries


@dataclass(frozen=True)
class Lost:
    """An item whose process did not answer: ``timeout`` (stopped by us) or ``crash`` (it died by itself)."""

    kind: Literal["timeout", "crash"]
    detail: str


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    served: int = 0
    ready: bool = False  # it has imported what it needs
    index: int | None = None  # the item it works on
    deadline: float = 0.0


@dataclass
class Pool(Generic[Item, Result]):
    """Processes that call ``function(item)``; the function and its items are pickled, so it lives in a module.

    ``timeout`` is in seconds for one item. ``workers`` None means one for each core this process may use.
    """

    function: Callable[[Item], Result]
    timeout: float
    workers: int | None = None
    preload: tuple[str, ...] = ()  # modules that the fork server should import once for all workers
    _idle: list[_Worker] = field(default_factory=list)
    _busy: list[_Worker] = field(default_factory=list)

    def map(self, items: Iterable[Item]) -> Iterator[Result | Lost]:
        """Yield one result for each item, in the order of the items, whatever the number of workers.

        Raises RuntimeError when the function itself raises: what may go wrong with an item belongs into its result.
        At most ``4 * workers + 16`` results wait for an earlier one, so memory stays flat.
        """
        workers = self.workers or len(os.sched_getaffinity(0))
        window = 4 * workers + 16
        todo = enumerate(items)
        done: dict[int, Result | Lost] = {}
        asked = given = 0
        exhausted = False
        try:
            while True:
                while not exhausted and len(self._busy) < workers and asked - given < window:
                    entry = next(todo, None)
                    if entry is None:
                        exhausted = True
                        break
                    self._give(*entry)
                    asked += 1
                while given in done:
                    yield done.pop(given)
                    given += 1
                if exhausted and given == asked:
                    return
                if asked - given >= window or exhausted or len(self._busy) >= workers:
                    self._collect(done)
        finally:
            self._stop()

    def _give(self, index: int, item: Item) -> None:
        worker = self._idle.pop() if self._idle else self._start()
        worker.index, worker.served = index, worker.served + 1
        # The clock starts with the item, not with the import of decoders in a fresh process.
        worker.deadline = time.monotonic() + self.timeout + (START_LIMIT if worker.served == 1 else 0.0)
        with contextlib.suppress(OSError):  # it died while idle: _collect finds that out
            worker.pipe.send(item)
        self._busy.append(worker)

    def _start(self) -> _Worker:
        # A fork server forks clean single-threaded processes: no locks of pyarrow's threads are copied, no pipe of a
        # sister process is held open, and a replacement is there in milliseconds.
        context = mp.get_context("forkserver")
        context.set_forkserver_preload([self.function.__module__, *self.preload])
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.function, self.timeout), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _collect(self, done: dict[int, Result | Lost]) -> None:
        """Wait until something happens to a busy worker, and book it."""
        pause = max(0.0, min(worker.deadline for worker in self._busy) - time.monotonic())
        ready = set(wait([worker.pipe for worker in self._busy], timeout=min(pause, 3600.0)))
        now = time.monotonic()
        for worker in list(self._busy):
            if worker.pipe in ready:
                answer = self._receive(worker)
            elif now >= worker.deadline:
                answer = Lost("timeout", f"no answer within {self.timeout:g} s")
            else:
                continue
            if answer is _READY:
                worker.ready, worker.deadline = True, now + self.timeout
                continue
            if not worker.ready:
                assert isinstance(answer, Lost)
                raise RuntimeError(f"a worker process for {self.function.__module__} did not start: {answer.detail}")
            assert worker.index is not None
            done[worker.index] = answer
            self._busy.remove(worker)
            if isinstance(answer, Lost) or worker.served >= LIFETIME:
                _end(worker)
            else:
                self._idle.append(worker)

    def _receive(self, worker: _Worker) -> Any:
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(5)
            return Lost("crash", _cause(worker.process.exitcode))
        if kind == "raised":
            raise RuntimeError(f"in a worker process:\n{value}")
        return _READY if kind == "ready" else value

    def _stop(self) -> None:
        for worker in [*self._idle, *self._busy]:
            _end(worker)
        self._idle.clear()
        self._busy.clear()


_READY: Final = object()


def _end(worker: _Worker) -> None:
    worker.process.kill()  # a decoder that hangs in C code does not hear anything softer
    worker.process.join()
    worker.pipe.close()


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return f"the process was killed by {signal.Signals(-code).name}"
    return f"the process exited with code {code}"


def _serve(pipe: Connection, function: Callable[[Any], Any], timeout: float) -> None:
    """Answer items until the pipe closes; runs in the worker process."""
    import traceback

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders write to the terminal what they also raise
    pipe.send(("ready", None))
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        # Ends this process when the parent is gone and cannot: SIGALRM's default is to terminate, in C code too.
        signal.setitimer(signal.ITIMER_REAL, 2 * timeout + 5)
        try:
            answer = ("done", function(item))
        except Exception:
            answer = ("raised", traceback.format_exc())
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            pipe.send(answer)
        except OSError:
            return


Kind = Literal["uniform", "peak"]
PYAV_ONLY: Final = ("pyav",)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One clip to read: ``clip`` is its path for messages, ``path`` where it lies, ``units`` its OpenFace table.

    ``measurer`` measures the action units of a clip without a table; ``without_torch`` is ``transform.picture``'s.
    """

    clip_id: str
    clip: str
    path: Path
    units: Path | None
    params: MediaParams
    decoders: tuple[str, ...] = ("decord", "pyav")
    measurer: Measurer | None = None
    without_torch: bool = False

    @property
    def limit(self) -> float:
        """Return the seconds the clip may take."""
        measures = self.units is None and self.measurer is not None
        return self.params.timeout + (self.measurer.limit(self.params.timeout) if measures and self.measurer else 0.0)


@dataclass(frozen=True)
class Stored:
    """One encoded frame: ``frame`` is its index in the clip, ``number`` its place among the frames of its kind."""

    kind: Kind
    number: int
    frame: int
    blob: bytes


@dataclass(frozen=True)
class Done:
    """What one clip gave: frames and facts, or ``failure`` as (reason, detail)."""

    probe: Probe | None = None
    frames: list[Stored] = field(default_factory=list)
    peak: tuple[int, list[float]] | None = None  # frame with the largest sum of intensities, and its 17 intensities
    note: str = ""  # what was wrong with the OpenFace table; costs the action units, not the clip
    failure: tuple[str, str] | None = None


def process(task: Task) -> Done:
    """Read one clip; whatever is wrong with it comes back as a failure, never as an exception."""
    peak, note = _peak(task)
    blobs: dict[int, bytes] = {}

    wanted = peak[0] if peak else None

    def choose(count: int) -> list[int]:
        return [*uniform(count, task.params.frames), still(count, wanted)]

    def keep(index: int, frame: Frame) -> None:
        blobs[index] = encode(picture(frame, task.params, without_torch=task.without_torch), task.params)

    try:
        probe = read_frames(task.path, choose, keep, decoders=task.decoders, name=task.clip)
    except ClipError as error:
        return Done(failure=(error.reason, error.detail))
    except Exception as error:  # a file no one has thought of may cost itself, not the corpus
        return Done(failure=("clip-unreadable", tidy(f"{type(error).__name__}: {error}")))
    if peak is not None and peak[0] >= probe.frames:
        note = f"its peak is frame {peak[0]}, the clip has {probe.frames}"
        peak = None
    *spread, single = choose(probe.frames)
    frames = [Stored("uniform", number, index, blobs[index]) for number, index in enumerate(spread)]
    return Done(probe, [*frames, Stored("peak", 0, single, blobs[single])], peak, note)


def _peak(task: Task) -> tuple[tuple[int, list[float]] | None, str]:
    """Return the peak of the clip's OpenFace table, and what was wrong with the table."""
    if task.units is None and task.measurer is None:
        return None, ""
    try:
        table = _units(task)
    except Exception as error:  # another's program or library; whatever it does costs the action units only
        return None, tidy(f"{task.units.name if task.units else 'not measured'}: {error}")
    if table is None:
        return None, "no frame with a tracked face"
    frame, intensities = table.peak
    return (frame, [float(value) for value in intensities]), ""


def _units(task: Task) -> ActionUnits | None:
    """Return the clip's table, or what is measured where it has none."""
    if task.units is not None:
        return read_action_units(task.units)
    assert task.measurer is not None
    return task.measurer.measure(task.path, task.measurer.limit(task.params.timeout))
