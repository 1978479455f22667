"""Run a function over many items in processes that may hang or die; each failure costs its own item only.

The standard pools either hang or lose everything when one process is killed, and have no time limit for one item.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Generic, Literal, TypeVar

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
