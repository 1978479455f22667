"""Train on several GPUs of one machine: a process for each, started by torch's own launcher (torchrun).

Each process holds the model and trains its part of every batch. The first one writes checkpoints and how it ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from emoverse.errors import UserError
from emoverse.params import TrainParams, parse, plain
from emoverse.training.checkpoints import PreemptedError

OUTCOME: Final = "outcome.json"
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

    SIGTERM is passed on. Raises as `train_rows` does.
    """
    from emoverse.training.session import Trained

    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / OUTCOME).unlink(missing_ok=True)
    paths = {"model": model, "tensorboard": tensorboard, "adapter": adapter}
    task = {name: str(path.absolute()) if path else None for name, path in paths.items()}
    task |= {"rows": rows, "lengths": lengths, "validated": [str(path.absolute()) for path in validated]}  # type: ignore[dict-item]
    (scratch / "task.json").write_text(json.dumps({**task, "params": plain(params), "label": label}), "utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={params.gpus}"]
    launcher += ["--shutdown-timeout", "600"]  # seconds to save a checkpoint in, after SIGTERM
    child = subprocess.Popen([*launcher, "-m", "emoverse.training.ranks", str(scratch.absolute())])
    before = signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
    try:
        code = child.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    if not (scratch / OUTCOME).is_file():
        raise RuntimeError(f"the training processes ended with {code} and said nothing; their words are above")
    outcome = json.loads((scratch / OUTCOME).read_text("utf-8"))
    if "preempted" in outcome:
        raise PreemptedError(outcome["preempted"])
    if "refused" in outcome:
        raise UserError(**outcome["refused"])
    return Trained(**{**outcome["trained"], "checkpoint": scratch / outcome["trained"]["checkpoint"]})


def main(scratch: Path) -> None:
    """Be one of the processes: train what ``task.json`` says, and say in OUTCOME how it ended."""
    from emoverse.media.frames import FrameStore
    from emoverse.training.session import train_rows

    task = json.loads((scratch / "task.json").read_text("utf-8"))
    paths = {name: Path(task[name]) if task[name] else None for name in ("model", "tensorboard", "adapter")}
    params = parse(TrainParams, task["params"], place="params.yaml")
    frames = FrameStore([Path(folder) for folder in task["validated"]])
    model = paths.pop("model")
    assert model is not None
    try:
        done = train_rows(task["rows"], task["lengths"], model, frames, params, scratch, task["label"], **paths)
    except PreemptedError as stop:
        _say(scratch, {"preempted": str(stop)}, first_only=True)
        return
    except UserError as error:
        _say(scratch, {"refused": {"problem": error.problem, "place": error.place, "remedy": error.remedy}})
        raise
    told = {"checkpoint": done.checkpoint.name, "log": done.log, "seen": dict(done.seen), "steps": done.steps}
    _say(scratch, {"trained": {**told, "speed": done.speed}}, first_only=True)


def _say(scratch: Path, outcome: dict[str, Any], *, first_only: bool = False) -> None:
    if rank() == 0 or not first_only:
        own = scratch / f"{OUTCOME}.{os.getpid()}"
        own.write_text(json.dumps(outcome), "utf-8")
        own.replace(scratch / OUTCOME)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
