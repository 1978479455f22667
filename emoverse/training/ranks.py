"""Train on several GPUs of one machine: a process (rank) for each, started by torch's own launcher (torchrun).

Each holds the model and trains its part of every batch; the first one writes checkpoints. In the scratch folder each
leaves how it ended, and what libraries said on the way, which is shown only when it is killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from emoverse.errors import UserError, of_system
from emoverse.params import TrainParams, parse, plain
from emoverse.training.stopping import PreemptedError

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
    from emoverse.training.launch import broken, launch
    from emoverse.training.session import Trained

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
        said = of_system(error) if isinstance(error, OSError) else error
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
    from emoverse.training.session import train_rows

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
