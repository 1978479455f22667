"""Start one process per GPU, stop them together, divide the model among them."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from emoverse.config import TrainParams, parse, plain
from emoverse.errors import UserError, from_os_error
from emoverse.training.checkpoints import last_complete

_SAME_TIME: Final = 5  # seconds; the launcher ends what a dead process left running only 30 s later
_WORDS: Final = 300  # characters of a dead process's last words


def launch(ranks: int, scratch: Path) -> dict[int, Any]:
    """Run `emoverse.training.distributed` on ``scratch`` in so many processes until all have ended.

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
        words = ["-m", "emoverse.training.distributed", str(scratch.absolute()), str(os.getpid())]
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


Value = TypeVar("Value")


def rank() -> int:
    """Return the number of this process among those that train together; 0, which writes, where there is only one."""
    return int(os.environ.get("RANK", "0"))


def gathered(value: Value) -> list[Value]:
    """Return the value of every process, in order of rank."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def train_on_ranks(
    rows: Sequence[Mapping[str, Any]],
    lengths: Sequence[int],
    model: Path,
    validated: Sequence[Path],
    params: TrainParams,
    scratch: Path,
    label: str,
    tensorboard: Path | None,
    adapter: Path | None,
) -> Any:
    """Do what `session.train_rows` does with ``params.gpus`` processes; ``validated`` holds the frames.

    Raises as `train_rows` does, UserError for a process that was killed, and RuntimeError for a fault of ours in one.
    """
    from emoverse.training.trainer import Trained

    scratch.mkdir(parents=True, exist_ok=True)
    for path in (*scratch.glob("outcome-*.json"), *scratch.glob("words-*.txt")):
        path.unlink()
    paths = {"model": model, "tensorboard": tensorboard, "adapter": adapter}
    task = {name: str(path.absolute()) if path else None for name, path in paths.items()}
    task |= {"rows": rows, "lengths": lengths, "validated": [str(path.absolute()) for path in validated]}  # type: ignore[dict-item]
    (scratch / "task.json").write_text(json.dumps({**task, "params": plain(params), "label": label}), "utf-8")
    failures = launch(params.gpus, scratch)
    files = {number: scratch / f"outcome-{number}.json" for number in range(params.gpus)}
    outcomes = {number: json.loads(path.read_text("utf-8")) for number, path in files.items() if path.is_file()}
    first = outcomes.get(0, {})
    if "trained" in first:
        return Trained(**{**first["trained"], "checkpoint": scratch / first["trained"]["checkpoint"]})
    if refused := next((one["refused"] for one in outcomes.values() if "refused" in one), None):
        raise UserError(**refused)
    if "preempted" in first:
        raise PreemptedError(first["preempted"])
    raise broken(failures, outcomes, scratch, params.gpus)


def main(scratch: Path, launcher: int) -> int:
    """Be one of the processes: train what ``task.json`` says, and leave how it ended; return an exit code."""
    _die_with(launcher)
    _set_words_aside(scratch)
    outcome: dict[str, Any]
    try:
        outcome = {"trained": _train(scratch)}
    except PreemptedError as stop:
        outcome = {"preempted": str(stop)}
    except BaseException as error:
        said = from_os_error(error) if isinstance(error, OSError) else error
        if isinstance(said, UserError):
            outcome = {"refused": {"problem": said.problem, "place": said.place, "remedy": said.remedy}}
        else:
            text = f"{type(error).__name__}: {error}"
            outcome = {"failed": {"error": text, "traceback": traceback.format_exc(), "at": time.time()}}
    own = scratch / f"outcome-{rank()}.json"
    own.with_suffix(".part").write_text(json.dumps(outcome), "utf-8")
    own.with_suffix(".part").replace(own)
    return int("refused" in outcome or "failed" in outcome)


def _train(scratch: Path) -> dict[str, Any]:
    from emoverse.media.frames import FrameStore
    from emoverse.training.trainer import train_rows

    task = json.loads((scratch / "task.json").read_text("utf-8"))
    paths = {name: Path(task[name]) if task[name] else None for name in ("model", "tensorboard", "adapter")}
    params = parse(TrainParams, task["params"], place="params.yaml")
    frames = FrameStore([Path(folder) for folder in task["validated"]])
    model = paths.pop("model")
    assert model is not None
    done = train_rows(task["rows"], task["lengths"], model, frames, params, scratch, task["label"], **paths)
    told = {"checkpoint": done.checkpoint.name, "log": done.log, "seen": dict(done.seen), "steps": done.steps}
    return {**told, "speed": done.speed}


def _die_with(launcher: int) -> None:
    """Have the kernel end this process with the one that started it: left alone, it would go on and hold its GPU."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != launcher:
            os._exit(1)


def _set_words_aside(scratch: Path) -> None:
    """Send what libraries write on the standard error stream to a file; the first rank's own words stay on it."""
    shown = os.dup(2)
    with (scratch / f"words-{rank()}.txt").open("wb") as file:
        os.dup2(file.fileno(), 2)
    if rank() == 0:
        sys.stderr = os.fdopen(shown, "w", buffering=1, encoding="utf-8", errors="backslashreplace")


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once: a communicator whose peer is gone may never come down


def join_shards(params: TrainParams, *, cpu: bool) -> None:
    """Make DeepSpeed know the processes it divides among before the model is loaded.

    On GPUs accelerate does it; on a CPU it does not, and ZeRO-3 would take each process for the only one.
    """
    if params.sharding != "none" and cpu:
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo", verbose=False)


def sharded_gradient(trainer: Any) -> float | None:
    """Return the norm of the step's gradient over all processes; None where each holds the whole of it.

    DeepSpeed leaves no gradient to look at before it updates the weights; one that is no number has norm infinity.
    """
    if not trainer.is_deepspeed_enabled:
        return None
    return float(trainer.deepspeed.get_global_grad_norm())


def finds_its_scale(trainer: Any) -> bool:
    """Return whether losses are scaled, as float16 needs it: steps whose gradient overflows are left out on purpose."""
    if trainer.is_deepspeed_enabled:
        return bool(trainer.deepspeed.fp16_enabled())
    return getattr(trainer.accelerator, "scaler", None) is not None


STOP: Final = "stop"
"""Name of the file in the scratch folder.

The process that started the others puts it there on SIGTERM. A signal to each of them would reach their readers of
rows, too, and end those before the step they feed.
"""


class PreemptedError(Exception):
    """Say that training was asked to stop (SIGTERM), saved a checkpoint and will resume from it."""


class Stop:
    """Whether somebody has asked the training in a scratch folder to stop."""

    def __init__(self, folder: Path) -> None:
        """Watch ``folder`` for the file STOP."""
        self.file, self._signalled = folder / STOP, False

    @property
    def asked(self) -> bool:
        """Whether to stop after the running step."""
        return self._signalled or self.file.exists()

    def ask(self, *signal_and_frame: object) -> None:
        """Note the request; this is a signal handler, too."""
        self._signalled = True

    def ask_all(self, *signal_and_frame: object) -> None:
        """Put the request where every process of the training sees it; this is a signal handler, too."""
        self.file.touch()


@contextmanager
def on_sigterm(ask: object) -> Iterator[None]:
    """Call ``ask`` when SIGTERM comes, instead of ending at once."""
    try:
        before = signal.signal(signal.SIGTERM, ask)  # type: ignore[arg-type]
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
