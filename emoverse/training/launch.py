"""Start one training process per GPU of this machine, and run one of them (``python -m emoverse.training.launch``)."""

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
from typing import Any, Final

from emoverse.config import TrainParams, parse, plain
from emoverse.errors import UserError, as_user_error
from emoverse.media.frames import FrameStore
from emoverse.training.checkpoints import last_complete
from emoverse.training.distributed import Node, PreemptedError, StopRequest, on_sigterm, rank
from emoverse.training.trainer import TrainingResult, train_rows

_SAME_TIME: Final = 5  # seconds; the launcher ends what a dead process left running only 30 s later
_CHARACTERS: Final = 300  # of the last line that a dead process wrote
_MEETING: Final = 3600  # seconds that machines wait for each other: those before may load rows more quickly
_PATHS: Final = ("model", "tensorboard", "adapter", "amt")


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
    amt: Path | None,
    node: Node,
) -> TrainingResult | None:
    """Do what `trainer.train_rows` does with ``params.gpus`` processes on each node.

    With several nodes, all of them call this with a ``scratch`` that they share.

    Args:
        rows: In ms-swift's form.
        lengths: Tokens of each row.
        model: The model folder.
        validated: Outputs of validate with the frames.
        params: The stage's parameters.
        scratch: Folder for checkpoints and the ledger.
        label: Printed before the progress.
        tensorboard: Folder for event files, or None.
        adapter: An adapter of the model that is trained further, or None.
        amt: Output of build-amt, whose validation sets are scored at each checkpoint, or None.
        node: This machine.

    Returns:
        The result; None on other nodes than the first.

    Raises:
        PreemptedError: As `train_rows` does.
        UserError: As `train_rows` does, or a process was killed.
        RuntimeError: An internal error in one of the processes.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    if node.rank == 0:  # the others' processes start when this node is ready, too
        for path in (*scratch.glob("outcome-*.json"), *scratch.glob("stderr-*.txt")):
            path.unlink()
    paths = {"model": model, "tensorboard": tensorboard, "adapter": adapter, "amt": amt}
    task: dict[str, Any] = {name: str(path.absolute()) if path else None for name, path in paths.items()}
    task |= {"rows": rows, "lengths": lengths, "validated": [str(path.absolute()) for path in validated]}
    (scratch / _task_file(node.rank)).write_text(json.dumps({**task, "params": plain(params), "label": label}), "utf-8")
    failures = _launch(params, scratch, node)
    files = {number: scratch / f"outcome-{number}.json" for number in range(params.processes)}
    outcomes = {number: json.loads(path.read_text("utf-8")) for number, path in files.items() if path.is_file()}
    first = outcomes.get(node.rank * params.gpus, {})
    if node.rank > 0 and not failures and "preempted" not in first:
        return None  # perhaps without outcomes: the first node removes the folder when it has published the model
    if "trained" in first and node.rank == 0:
        return TrainingResult(**{**first["trained"], "checkpoint": scratch / first["trained"]["checkpoint"]})
    if refused := next((outcome["refused"] for outcome in outcomes.values() if "refused" in outcome), None):
        raise UserError(**refused)
    if "preempted" in first:
        raise PreemptedError(first["preempted"])
    raise failure_of(failures, outcomes, scratch, params.processes)


def _task_file(node: int) -> str:
    return f"task-{node}.json"  # each node has paths of its own


def _launch(params: TrainParams, scratch: Path, node: Node) -> dict[int, Any]:
    """Run this module on ``scratch`` in ``params.gpus`` processes until all end; SIGTERM makes them save and stop.

    Returns:
        What torch's launcher reports of the failed ones, by rank, in the order in which it noticed them.

    Raises:
        KeyboardInterrupt: After Ctrl-C.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    stop = StopRequest(scratch)
    stop.file.unlink(missing_ok=True)
    meeting: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
    if params.nodes > 1:
        ranked = {"rank": node.rank, "timeout": _MEETING}
        meeting = {
            "rdzv_backend": "static", "rdzv_endpoint": f"{node.address}:{node.port}", "rdzv_configs": ranked,
        }  # fmt: skip
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=params.nodes, max_nodes=params.nodes, nproc_per_node=params.gpus, max_restarts=0,
            start_method="spawn", run_id="emoverse", logs_specs=DefaultLogsSpecs(log_dir=logs),
            signals_to_handle="SIGINT", **meeting,
        )  # fmt: skip
        arguments = ["-m", "emoverse.training.launch", str(scratch.absolute()), str(os.getpid())]
        try:
            with on_sigterm(stop.request_all), _quiet():
                elastic_launch(config, sys.executable)(*arguments)
        except ChildFailedError as error:
            return dict(error.failures)
        except SignalException:
            raise KeyboardInterrupt from None
        finally:
            stop.file.unlink(missing_ok=True)
    return {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the launcher from logging errors that we report, and restore the handler of Ctrl-C."""
    handler, level = signal.getsignal(signal.SIGINT), logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(level)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def failure_of(
    failures: Mapping[int, Any], outcomes: Mapping[int, Mapping[str, Any]], scratch: Path, ranks: int
) -> Exception:
    """Return an error that names the process that failed first, its last line of stderr and what to do.

    Args:
        failures: What torch's launcher reports, by rank.
        outcomes: What each process left in ``outcome-<rank>.json``.
        scratch: The scratch folder.
        ranks: The number of processes.

    Returns:
        A UserError for a process that was killed; a RuntimeError for an internal error, the traceback in its notes.
    """
    number = _first_failed(failures, outcomes)
    name = f"rank {number} of {ranks}"
    if fault := outcomes.get(number, {}).get("failed"):
        error = RuntimeError(f"{name}: {fault['error']}")
        error.add_note(fault["traceback"])
        return error
    code = failures[number].exitcode if number in failures else 0
    if code >= 0:
        return RuntimeError(f"{name} ended with code {code}{_last_line(scratch, number)}")
    checkpoint, _ = last_complete(scratch, ranks)
    again = f"run again to resume from {checkpoint.name}" if checkpoint else "run again"
    cause = {
        signal.SIGKILL: "check whether memory ran out (a smaller train.batch_size and fewer train.workers need less)",
        signal.SIGBUS: "enlarge /dev/shm or set train.workers to 0",
    }.get(signal.Signals(-code), "check its stderr")
    problem = f"ended by {signal.Signals(-code).name}, so training stopped{_last_line(scratch, number)}"
    return UserError(problem, place=name, remedy=f"{cause}, and {again}")


def _first_failed(failures: Mapping[int, Any], outcomes: Mapping[int, Mapping[str, Any]]) -> int:
    """Return the rank that failed first; another's lost connection is only a consequence."""
    start = min((failure.timestamp for failure in failures.values()), default=0)
    early = [number for number, failure in failures.items() if failure.timestamp <= start + _SAME_TIME]
    for number in early:
        if failures[number].exitcode < 0 and -failures[number].exitcode != signal.SIGTERM:
            return number
    faults = {number: outcome["failed"]["at"] for number, outcome in outcomes.items() if "failed" in outcome}
    return min(faults, key=lambda number: faults[number]) if faults else early[0] if early else 0


def _last_line(scratch: Path, number: int) -> str:
    try:
        text = (scratch / f"stderr-{number}.txt").read_text("utf-8", errors="replace")
    except OSError:
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"; last stderr line: {lines[-1][-_CHARACTERS:]!r}" if lines else "; no output"


def main(scratch: Path, launcher: int) -> int:
    """Worker entry point for one rank: train as the node's task file says, write the outcome; return an exit code."""
    _end_with_parent(launcher)
    _redirect_stderr(scratch)
    outcome: dict[str, Any]
    try:
        outcome = {"trained": _train(scratch)}
    except PreemptedError as error:
        outcome = {"preempted": str(error)}
    except BaseException as error:
        if refusal := as_user_error(error):
            outcome = {"refused": refusal.as_arguments()}
        else:
            text = f"{type(error).__name__}: {error}"
            outcome = {"failed": {"error": text, "traceback": traceback.format_exc(), "at": time.time()}}
    path = scratch / f"outcome-{rank()}.json"
    path.with_suffix(".part").write_text(json.dumps(outcome), "utf-8")
    path.with_suffix(".part").replace(path)
    return int("refused" in outcome or "failed" in outcome)


def _train(scratch: Path) -> dict[str, Any] | None:
    task = json.loads((scratch / _task_file(int(os.environ["GROUP_RANK"]))).read_text("utf-8"))
    paths = {name: Path(task[name]) if task[name] else None for name in _PATHS}
    params = parse(TrainParams, task["params"], place="params.yaml")
    os.environ["OMP_NUM_THREADS"] = str(params.threads)  # accelerate warns of its own choice where none is set
    frames = FrameStore([Path(folder) for folder in task["validated"]])
    model = paths.pop("model")
    assert model is not None
    result = train_rows(task["rows"], task["lengths"], model, frames, params, scratch, task["label"], **paths)
    if result is None:
        return None
    return {**vars(result), "checkpoint": result.checkpoint.name}  # asdict would break a Counter


def _end_with_parent(launcher: int) -> None:
    """Have the kernel end this process with its parent: it would run on alone and keep its GPU."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != launcher:
            os._exit(1)


def _redirect_stderr(scratch: Path) -> None:
    """Send what libraries write to stderr to a file; only Python's stderr of the first rank stays on it."""
    terminal = os.dup(2)
    with (scratch / f"stderr-{rank()}.txt").open("wb") as file:
        os.dup2(file.fileno(), 2)
    if rank() == 0:
        sys.stderr = os.fdopen(terminal, "w", buffering=1, encoding="utf-8", errors="backslashreplace")


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once: a communicator whose peer is gone may never come down
