"""Divide a training's state among GPUs by DeepSpeed's ZeRO, as ms-swift's ``zero2`` and ``zero3`` settings do."""

from __future__ import annotations

from typing import Any

from emoverse.params import TrainParams


def join_shards(params: TrainParams, *, cpu: bool) -> None:
    """Make DeepSpeed know the processes it divides among before the model is loaded.

    On GPUs accelerate does it; on a CPU it does not, and ZeRO-3 would take each process for the only one.
    """
    if params.sharding != "none" and cpu:
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo", verbose=False)


def sharded_gradient(trainer: Any) -> float | None:
    """Return the norm of the step's gradient over all processes; None where no process holds only a part of it.

    DeepSpeed updates the weights within the backward pass, and leaves no gradient to look at before.
    """
    if not trainer.is_deepspeed_enabled:
        return None
    return float(trainer.deepspeed.get_global_grad_norm())
