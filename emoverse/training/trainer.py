"""Run one training with ms-swift in this process: monitored, resumable, offline."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoverse.config import TrainParams
from emoverse.media.frames import FrameStore
from emoverse.training.checkpoints import Ledger, last_complete, reporting_full_disk, step_of
from emoverse.training.distributed import (
    PreemptedError,
    StopRequest,
    agree,
    join_shards,
    on_sigterm,
    rank,
)
from emoverse.training.estimate import steps_of
from emoverse.training.rows import validation_sets

_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
LOG_POINTS = 200


@dataclass(frozen=True)
class TrainingResult:
    """A finished training: the selected checkpoint and its step, the log, the number of steps.

    ``seen`` is how often each row was trained in all steps, ``selected`` up to the selected checkpoint.
    ``validation`` has a result for each checkpoint that was scored.
    ``speed`` covers this run only, which may have resumed from a checkpoint (`DisplayCallback.speed`).
    """

    checkpoint: Path
    log: list[dict[str, float]]
    seen: Mapping[str, int]
    selected: Mapping[str, int]
    selected_step: int
    steps: int
    validation: list[dict[str, Any]]
    speed: dict[str, float]


def train_rows(
    rows: list[dict[str, Any]],
    lengths: list[int],
    model: Path,
    frames: FrameStore,
    params: TrainParams,
    scratch: Path,
    label: str = "train",
    tensorboard: Path | None = None,
    adapter: Path | None = None,
    amt: Path | None = None,
) -> TrainingResult | None:
    """Train on rows in ``scratch``, resuming from the last complete checkpoint there.

    Args:
        rows: In ms-swift's form.
        lengths: Tokens of each row.
        model: The model folder.
        frames: Frames by reference.
        params: The stage's parameters.
        scratch: Folder for checkpoints and the ledger.
        label: Printed before the progress.
        tensorboard: Folder for event files, or None.
        adapter: An adapter of the model that is trained further, or None.
        amt: Output of build-amt, whose validation sets are scored at each checkpoint, or None.

    Returns:
        The result; None in other processes than the first.

    Raises:
        PreemptedError: SIGTERM; a checkpoint is saved.
        UserError: A loss or gradient is not finite, or the disk is full.
    """
    os.environ.update(_ENVIRONMENT)
    # ms-swift would print its arguments and the whole model
    os.environ.setdefault("LOG_LEVEL", "ERROR")
    import torch

    from emoverse.compat.swift import InMemorySft, batch_sampler
    from emoverse.training.callbacks import DisplayCallback, MonitorCallback, ValidationCallback
    from emoverse.training.swift_setup import LengthBatches, register_frames, swift_arguments

    _configure_libraries(params)
    scratch.mkdir(parents=True, exist_ok=True)
    resume = _checkpoint_to_resume(scratch, params)
    register_frames(frames)
    cpu = not torch.cuda.is_available()
    arguments = swift_arguments(
        params,
        model=model,
        dataset=scratch / "rows.jsonl",
        output=scratch,
        resume=resume,
        log_every=max(1, round(steps_of(len(rows), params) / LOG_POINTS)),
        cpu=cpu,
        adapter=adapter,
    )
    tokens = {row["channel"]: length for row, length in zip(rows, lengths, strict=True)}
    stop = StopRequest(scratch)
    display = DisplayCallback(label, tokens, tensorboard)
    resumed_from = step_of(resume) if resume else 0
    ledger = Ledger(scratch, resumed_from, rank())
    monitor = MonitorCallback(ledger, tokens, display.count, stop)

    sets = validation_sets(amt, rows, frames) if amt and params.validation_rows else []
    validation = ValidationCallback(sets, frames, model, params, scratch, resumed_from)

    def prepare(trainer: Any) -> None:
        monitor.attach(trainer)
        validation.attach(trainer)
        trainer.add_callback(validation)
        trainer.add_callback(monitor)
        trainer.add_callback(display)

    sampler = LengthBatches if params.group_by_length or params.processes > 1 else None
    with reporting_full_disk(scratch, params.processes), on_sigterm(stop.request):
        join_shards(params, cpu=cpu)
        session = InMemorySft(arguments, rows, lengths, prepare)
        with display, batch_sampler(sampler):
            session.main()
    state = session.trainer.state
    if monitor.stopped and state.global_step < state.max_steps:
        raise PreemptedError(f"stopped at step {state.global_step} of {state.max_steps}, saved; run again to resume")
    if rank() != 0:
        return None
    return _result(scratch, params, state, ledger, display.speed())


def _configure_libraries(params: TrainParams) -> None:
    """Set torch's threads and memory, and silence transformers outside a terminal."""
    import torch
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    torch.set_num_threads(params.threads)
    # `deterministic` would fill every new tensor with NaN, in case an operation reads memory that none has written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    set_verbosity_error()  # of a deprecated argument that ms-swift passes
    if not sys.stderr.isatty():
        disable_progress_bar()


def _checkpoint_to_resume(scratch: Path, params: TrainParams) -> Path | None:
    """Return the last complete checkpoint, the same in all processes, None without one; the first process prints it."""
    resume, skipped = last_complete(scratch, params.processes)
    agreed = agree(scratch, resume.name if resume else "")
    resume = scratch / agreed if agreed else None
    if rank() == 0:
        for message in [*skipped, *([f"resuming from {resume.name}"] if resume else [])]:
            print(f"train: {message}", flush=True)
    return resume


def _result(scratch: Path, params: TrainParams, state: Any, ledger: Ledger, speed: dict[str, float]) -> TrainingResult:
    """Return the result of a finished training from the trainer's ``state`` and what is in ``scratch``."""
    from emoverse.training.callbacks import read_validation

    keys = ("loss", "grad_norm", "learning_rate", "epoch", "step")
    # with 16-bit floats, steps that the loss scaler skips have an infinite gradient, which JSON cannot hold
    log = [
        {key: entry[key] for key in keys if key in entry and math.isfinite(entry[key])}
        for entry in state.log_history
        if "loss" in entry
    ]
    checkpoint, _ = last_complete(scratch, params.processes)
    if checkpoint is None:
        raise ValueError(f"training ended without a complete checkpoint in {scratch}")
    selected = checkpoint
    if params.select != "last" and state.best_global_step:
        selected = scratch / f"checkpoint-{state.best_global_step}"
    step = step_of(selected)
    return TrainingResult(
        selected,
        log,
        ledger.counts(state.global_step),
        ledger.counts(step),
        step,
        int(state.global_step),
        read_validation(scratch),
        speed,
    )
