"""Start the processes of one training by torch's own launcher (torchrun), and tell what ended them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from emoverse.errors import UserError
from emoverse.training.checkpoints import last_complete
from emoverse.training.stopping import Stop, on_sigterm

_SAME_TIME: Final = 5  # seconds; the launcher ends what a dead process left running only 30 s later
_WORDS: Final = 300  # characters of a dead process's last words


def launch(ranks: int, scratch: Path) -> dict[int, Any]:
    """Run `emoverse.training.ranks` on ``scratch`` in so many processes until all have ended.

    SIGTERM makes them save and stop. Returns what torch's launcher knows of those that failed, by rank, in the order it
    found them. Raises KeyboardInterrupt after Ctrl-C.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    stop = Stop(scratch)
    stop.file.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=ranks, max_restarts=0, start_method="spawn",
            rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id="emoverse", local_addr="localhost",
            logs_specs=DefaultLogsSpecs(log_dir=logs), signals_to_handle="SIGINT",
        )  # fmt: skip
        words = ["-m", "emoverse.training.ranks", str(scratch.absolute()), str(os.getpid())]
        try:
            with on_sigterm(stop.ask_all), _quiet():
                elastic_launch(config, sys.executable)(*words)
        except ChildFailedError as error:
            return dict(error.failures)
        except SignalException:
            raise KeyboardInterrupt from None
        finally:
            stop.file.unlink(missing_ok=True)
    return {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the launcher from logging what we say ourselves, and give Ctrl-C back its handler."""
    handler, level = signal.getsignal(signal.SIGINT), logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(level)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def broken(
    failures: Mapping[int, Any], outcomes: Mapping[int, Mapping[str, Any]], scratch: Path, ranks: int
) -> Exception:
    """Return an error that names the process whose end took the others along, its last words and what to do.

    ``outcomes`` is what each process left of its end. UserError for one that was killed, RuntimeError for a fault of
    ours, the traceback of the process in its notes.
    """
    number = _first(failures, outcomes)
    name = f"rank {number} of {ranks}"
    if fault := outcomes.get(number, {}).get("failed"):
        error = RuntimeError(f"{name}: {fault['error']}")
        error.add_note(fault["traceback"])
        return error
    code = failures[number].exitcode if number in failures else 0
    if code >= 0:
        return RuntimeError(f"{name} ended with code {code}{_last_words(scratch, number)}")
    checkpoint, _ = last_complete(scratch, ranks)
    ahead = f"run again to go on from {checkpoint.name}" if checkpoint else "run again"
    why = {
        signal.SIGKILL: "see whether memory ran out (a smaller train.batch_size and fewer train.workers take less)",
        signal.SIGBUS: "give /dev/shm more room or set train.workers to 0",
    }.get(signal.Signals(-code), "see what its words mean")
    problem = f"was ended by {signal.Signals(-code).name}, so training stopped{_last_words(scratch, number)}"
    return UserError(problem, place=name, remedy=f"{why}, and {ahead}")


def _first(failures: Mapping[int, Any], outcomes: Mapping[int, Mapping[str, Any]]) -> int:
    """Return the rank that failed first; what another says of a lost connection is only a consequence."""
    start = min((failure.timestamp for failure in failures.values()), default=0)
    early = [number for number, failure in failures.items() if failure.timestamp <= start + _SAME_TIME]
    for number in early:
        if failures[number].exitcode < 0 and -failures[number].exitcode != signal.SIGTERM:
            return number
    faults = {number: one["failed"]["at"] for number, one in outcomes.items() if "failed" in one}
    return min(faults, key=lambda number: faults[number]) if faults else early[0] if early else 0


def _last_words(scratch: Path, number: int) -> str:
    try:
        text = (scratch / f"words-{number}.txt").read_text("utf-8", errors="replace")
    except OSError:
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"; its last words: {lines[-1][-_WORDS:]!r}" if lines else "; it said nothing"
