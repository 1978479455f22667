"""Coordinate the processes of one training: nodes, ranks, collective values, sharding, stop requests."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from emoverse.config import TrainParams
from emoverse.errors import UserError

Value = TypeVar("Value")
STOP_FILE: Final = "stop"
"""Name of the file in the scratch folder that asks every process to stop.

The launcher creates it on SIGTERM. A signal to each process would reach its data loader workers too, and end those
before the step they feed.
"""

NODES, NODE_RANK, ADDRESS, PORT = "PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"
"""Variables that torchrun reads its options from; Kubeflow Trainer sets them in the containers of a TrainJob."""
VISIBLE_AFTER: Final = 120.0  # seconds after which every machine sees a new file; NFS keeps what it knows for 60
_AGREED: Final = "emoverse"  # the key in the launcher's store


@dataclass(frozen=True)
class Node:
    """A machine among those that train together: its rank, and the address and port of the one with rank 0."""

    rank: int = 0
    address: str = ""
    port: int = 0


def this_node(params: TrainParams) -> Node:
    """Return which of ``params.nodes`` machines this is, from the variables of torchrun's options.

    Raises:
        UserError: The variables are missing or contradict the parameters, or torchrun started this process.
    """
    values = {name: os.environ.get(name, "") for name in (NODES, NODE_RANK, ADDRESS, PORT)}
    how = f"start the same command once on each machine, with {NODES}, {NODE_RANK}, {ADDRESS} and {PORT} set"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        problem = "torchrun started it, but training starts a process for each GPU itself"
        raise UserError(problem, place="emoverse train", remedy=how)
    if params.nodes == 1 and values[NODES] in ("", "1"):
        return Node()
    if params.nodes == 1:
        problem = f"{values[NODES]} machines were started, but train.nodes is 1"
        raise UserError(problem, place=NODES, remedy=f"set train.nodes to {values[NODES]}, or unset {NODES}")
    if missing := [name for name, value in values.items() if not value]:
        problem = f"is {params.nodes}, but {' and '.join(missing)} {'are' if missing[1:] else 'is'} not set"
        remedy = f"{how}, or submit the pipeline to a Kubeflow with Trainer, or set train.nodes to 1"
        raise UserError(problem, place="train.nodes", remedy=remedy)
    if values[NODES] != str(params.nodes):
        problem = f"is {values[NODES]}, but train.nodes is {params.nodes}"
        raise UserError(problem, place=NODES, remedy="give both the same number")
    for name, most in ((NODE_RANK, params.nodes - 1), (PORT, 65_535)):
        if not (values[name].isdecimal() and int(values[name]) <= most):
            raise UserError(f"{values[name]!r} is not a number up to {most}", place=name, remedy=how)
    return Node(int(values[NODE_RANK]), values[ADDRESS], int(values[PORT]))


def rank() -> int:
    """Return the rank of this process; 0, which writes, where there is only one."""
    return int(os.environ.get("RANK", "0"))


def all_gather(value: Value) -> list[Value]:
    """Return the value of every process, in order of rank."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def agree(folder: Path, value: str) -> str:
    """Return the text that the first process gives, once this process sees the folder as the first one does.

    Machines may see a folder that they share over a network in different states. The process group need not exist yet.

    Raises:
        UserError: They do not share the folder.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return value
    import torch.distributed as dist

    # the launcher's own store, where the process group is made afterwards
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*place, is_master=False, wait_for_workers=False)  # type: ignore[attr-defined]
    if rank() == 0:
        for earlier in folder.glob("meeting-*"):
            earlier.unlink()
        mark = folder / f"meeting-{uuid.uuid4().hex}"
        mark.touch()
        store.set(_AGREED, f"{mark.name} {value}")
    name, _, agreed = store.get(_AGREED).decode("utf-8").partition(" ")
    until = time.monotonic() + VISIBLE_AFTER
    while not (folder / name).exists():
        if time.monotonic() > until:
            remedy = "set EMOVERSE_SCRATCH on all of them to a folder that they share"
            raise UserError("the machines that train together do not share it", place=str(folder), remedy=remedy)
        time.sleep(0.2)
    return str(agreed)


def join_shards(params: TrainParams, *, cpu: bool) -> None:
    """Initialise DeepSpeed's process group before the model is loaded.

    On GPUs accelerate does it; on a CPU it does not, and ZeRO-3 would take each process for the only one.
    """
    if params.sharding != "none" and cpu:
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo", verbose=False)


def sharded_gradient_norm(trainer: Any) -> float | None:
    """Return the norm of the step's gradient over all processes; None where each has all of it.

    DeepSpeed leaves no gradient to look at before it updates the weights; one that is NaN has norm infinity.
    """
    if not trainer.is_deepspeed_enabled:
        return None
    return float(trainer.deepspeed.get_global_grad_norm())


def scales_loss(trainer: Any) -> bool:
    """Return whether losses are scaled, as float16 needs: steps whose gradient overflows are skipped on purpose."""
    if trainer.is_deepspeed_enabled:
        return bool(trainer.deepspeed.fp16_enabled())
    return getattr(trainer.accelerator, "scaler", None) is not None


class PreemptedError(Exception):
    """Report that training was asked to stop (SIGTERM), saved a checkpoint and will resume from it."""


class StopRequest:
    """Whether the training in a scratch folder was asked to stop."""

    def __init__(self, folder: Path) -> None:
        """Watch ``folder`` for STOP_FILE."""
        self.file, self._signalled = folder / STOP_FILE, False

    @property
    def requested(self) -> bool:
        """Whether to stop after the running step."""
        return self._signalled or self.file.exists()

    def request(self, *_: object) -> None:
        """Stop this process. A signal handler, too."""
        self._signalled = True

    def request_all(self, *_: object) -> None:
        """Stop every process of the training. A signal handler, too."""
        self.file.touch()


@contextmanager
def on_sigterm(handler: object) -> Iterator[None]:
    """Call ``handler`` on SIGTERM instead of ending the process."""
    try:
        previous = signal.signal(signal.SIGTERM, handler)  # type: ignore[arg-type]
    except ValueError:  # not the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
