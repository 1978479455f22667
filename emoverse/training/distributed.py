"""Coordinate the processes of one training: rank, collective values, sharding, stop requests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from emoverse.config import TrainParams

Value = TypeVar("Value")
STOP_FILE: Final = "stop"
"""Name of the file in the scratch folder that asks every process to stop.

The launcher creates it on SIGTERM. A signal to each process would reach its data loader workers too, and end those
before the step they feed.
"""


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
