"""Decode clips in worker processes that may crash or hang without taking the run with them.

The pool is home-made because a process must be able to die at any instant: pebble's processes share a pipe and its
locks, so one that dies while it holds them blocks the others; concurrent.futures ends at the first death.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

import av  # noqa: F401  (the fork server imports it once for all workers)

from emoverse.config import MediaParams
from emoverse.errors import UserError
from emoverse.media.action_units import NOT_MEASURED, ActionUnits, Measurer, read_action_units
from emoverse.media.decode import Frame, black_share, frozen_share, is_silent, read_frames, still, thumbnail, uniform
from emoverse.media.probe import ClipError, Probe, tidy
from emoverse.media.transform import encode, picture

Item = TypeVar("Item")
Result = TypeVar("Result")

LIFETIME: Final = 2000  # items a process serves before a fresh one takes over: decoders leak a little
START_LIMIT: Final = 120.0  # seconds a process may take to import its libraries


@dataclass(frozen=True)
class Lost:
    """An item without a result, which may be the machine's fault.

    ``timeout``: stopped by us; ``crash``: its process died by itself; ``killed``: another process ended it, mostly the
    kernel for want of memory; ``memory``: its process got no memory.
    """

    kind: Literal["timeout", "crash", "killed", "memory"]
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
    """Processes that call ``function(item)``; the function and its items are pickled, so it belongs to a module.

    ``timeout`` is in seconds for one item. ``workers`` None means one for each core this process may use.
    """

    function: Callable[[Item], Result | Lost]
    timeout: float
    workers: int | None = None
    _idle: list[_Worker] = field(default_factory=list)
    _busy: list[_Worker] = field(default_factory=list)
    _done: dict[int, Result | Lost] = field(default_factory=dict)

    def map(self, items: Iterable[Item]) -> Iterator[Result | Lost]:
        """Yield one result for each item, in the order of the items, whatever the number of workers.

        At most ``4 * workers + 16`` results wait for an earlier one, so memory stays flat. What may be wrong with an
        item belongs in its result.

        Raises:
            UserError: A worker cannot import a library.
            OSError: A worker met one.
            RuntimeError: A worker met any other exception.
        """
        workers = self.workers or len(os.sched_getaffinity(0))
        window = 4 * workers + 16
        todo = enumerate(items)
        started = yielded = 0
        exhausted = False
        try:
            while True:
                while not exhausted and len(self._busy) < workers and started - yielded < window:
                    entry = next(todo, None)
                    if entry is None:
                        exhausted = True
                        break
                    self._assign(*entry)
                    started += 1
                while yielded in self._done:
                    yield self._done.pop(yielded)
                    yielded += 1
                if exhausted and yielded == started:
                    return
                if started - yielded >= window or exhausted or len(self._busy) >= workers:
                    self._collect()
        finally:
            self._stop()

    def drain(self) -> None:
        """Wait until all workers are idle; ``map`` gives them work again when its next result is requested."""
        while self._busy:
            self._collect()

    def _assign(self, index: int, item: Item) -> None:
        worker = self._idle.pop() if self._idle else self._start()
        worker.index, worker.served = index, worker.served + 1
        # The clock starts with the item, not with the import of decoders in a fresh process.
        worker.deadline = time.monotonic() + self.timeout + (START_LIMIT if worker.served == 1 else 0.0)
        with contextlib.suppress(OSError):  # it died while idle: _collect finds that out
            worker.pipe.send(item)
        self._busy.append(worker)

    def _start(self) -> _Worker:
        # A fork server forks clean single-threaded processes: no locks of pyarrow's threads are copied, no pipe of a
        # sibling process is held open, and a replacement starts in milliseconds.
        context = mp.get_context("forkserver")
        context.set_forkserver_preload([self.function.__module__])
        own_end, child_end = context.Pipe()
        process = context.Process(target=_serve, args=(child_end, self.function, self.timeout), daemon=True)
        process.start()
        child_end.close()
        return _Worker(process, own_end)

    def _collect(self) -> None:
        """Wait until something happens to a busy worker, and keep its result."""
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
            self._done[worker.index] = answer
            self._busy.remove(worker)
            if isinstance(answer, Lost) or worker.served >= LIFETIME:
                _kill(worker)
            else:
                self._idle.append(worker)

    def _receive(self, worker: _Worker) -> Any:
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(5)
            code = worker.process.exitcode
            return Lost("killed" if code == -signal.SIGKILL else "crash", _cause(code))
        if kind == "failed":
            raise value
        return _READY if kind == "ready" else value

    def _stop(self) -> None:
        for worker in [*self._idle, *self._busy]:
            _kill(worker)
        self._idle.clear()
        self._busy.clear()


_READY: Final = object()


def _kill(worker: _Worker) -> None:
    worker.process.kill()  # a decoder that hangs in C code ignores anything softer
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
        answer: tuple[str, Any]
        try:
            answer = ("done", function(item))
        except MemoryError:
            answer = ("done", Lost("memory", "the process got no memory"))
        except ImportError as error:
            problem = f"a library cannot be imported: {error}"
            answer = ("failed", UserError(problem, place="worker process", remedy="run `make setup`"))
        except OSError as error:
            answer = ("failed", error)
        except Exception:
            answer = ("failed", RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            pipe.send(answer)
        except OSError:
            return


Kind = Literal["uniform", "peak"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One clip to read: ``clip`` is its path for messages, ``path`` the file, ``units`` its OpenFace table.

    ``measurer`` measures the action units of a clip without a table. ``patience`` multiplies all limits of time.
    """

    clip_id: str
    clip: str
    path: Path
    units: Path | None
    params: MediaParams
    measurer: Measurer | None = None
    patience: float = 1.0

    @property
    def limit(self) -> float:
        """Return the seconds the clip may take."""
        return self.patience * self.params.timeout + self.measuring_limit

    @property
    def measuring_limit(self) -> float:
        """Return the seconds that measuring its action units may take, 0 for a clip with a table."""
        return self.patience * self.measurer.limit(self.params.timeout) if self.measurer and not self.units else 0.0


@dataclass(frozen=True)
class Stored:
    """One encoded frame: ``frame`` is its index in the clip, ``number`` its place among the frames of its kind."""

    kind: Kind
    number: int
    frame: int
    blob: bytes


@dataclass(frozen=True)
class Done:
    """The result of one clip: frames and facts, or ``failure`` as (reason, detail)."""

    probe: Probe | None = None
    frames: list[Stored] = field(default_factory=list)
    peak: tuple[int, list[float]] | None = None  # frame with the largest sum of intensities, and its 17 intensities
    note: str = ""  # what was wrong with the OpenFace table; costs the action units, not the clip
    failure: tuple[str, str] | None = None


def process(task: Task) -> Done | Lost:
    """Read one clip; what is wrong with the clip comes back as a failure, what is wrong with the machine is raised."""
    try:
        table, note = _action_units(task)
    except TimeoutError as error:
        return Lost("timeout", str(error))
    blobs: dict[int, bytes] = {}
    small: dict[int, Frame] = {}

    def choose(count: int) -> list[int]:
        # The middle frame too: only the probe will show whether the table is the clip's.
        peak = table.peak_frame(count) if table is not None else None
        return [*uniform(count, task.params.frames), still(count, None), still(count, peak)]

    def keep(index: int, frame: Frame) -> None:
        blobs[index] = encode(picture(frame, task.params), task.params)
        small[index] = thumbnail(frame)

    try:
        probe = read_frames(task.path, choose, keep, name=task.clip, decoder=task.params.decoder)
        silent = is_silent(task.path) if probe.has_audio else None
    except ClipError as error:
        return Done(failure=(error.reason, error.detail))
    except (ValueError, ArithmeticError, IndexError) as error:  # an unforeseen kind of file fails alone
        return Done(failure=("clip-unreadable", tidy(f"{type(error).__name__}: {error}")))
    peak = None
    if table is not None and not (note := table.mismatch(probe)):
        peak = (table.peak_frame(probe.frames), [float(value) for value in table.peak[1]])
    spread, single = uniform(probe.frames, task.params.frames), still(probe.frames, peak and peak[0])
    frames = [Stored("uniform", number, index, blobs[index]) for number, index in enumerate(spread)]
    frames.append(Stored("peak", 0, single, blobs[single]))
    black, frozen = black_share(small, spread), frozen_share(small, spread)
    probe = replace(probe, black=round(black, 6), frozen=None if frozen is None else round(frozen, 6), silent=silent)
    return Done(probe, frames, peak, note)


def _action_units(task: Task) -> tuple[ActionUnits | None, str]:
    """Return the clip's action units from its table or the measurer, and what is wrong with them.

    Raises:
        TimeoutError: Measuring took too long, and may be tried again with more patience.
    """
    if task.units is None and task.measurer is None:
        return None, ""
    try:
        if task.units is not None:
            table = read_action_units(task.units)
        else:
            assert task.measurer is not None
            table = task.measurer.measure(task.path, task.measuring_limit)
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # a program or library of others; whatever it does costs the action units only
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if isinstance(error, TimeoutError) and task.patience == 1:
            raise
        return None, tidy(f"{task.units.name if task.units else NOT_MEASURED}: {error}")
    return table, "" if table is not None else "no frame with a tracked face"
