"""Run one training with ms-swift in this process, watched, resumable, offline."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoverse.config import TrainParams
from emoverse.media.frames import FrameStore
from emoverse.training.checkpoints import full_disk_named, last_complete
from emoverse.training.distributed import PreemptedError, Stop, join_shards, on_sigterm, rank
from emoverse.training.estimate import steps_of

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
LOG_POINTS = 200


@dataclass(frozen=True)
class Trained:
    """What a finished training left: its last checkpoint, its log, how often each row was seen, steps.

    ``speed`` is of this run alone, which may have gone on from a checkpoint (`Display.speed`).
    """

    checkpoint: Path
    log: list[dict[str, float]]
    seen: Mapping[str, int]
    steps: int
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
) -> Trained:
    """Train on rows (``lengths`` tokens each) in ``scratch``, going on from the last complete checkpoint there.

    ``label`` goes before the progress; ``tensorboard`` is a folder for event files, or None; ``adapter`` an adapter of
    the model that is trained further, or None.
    Raises PreemptedError after SIGTERM (a checkpoint is saved), UserError for a loss or gradient that is not finite.
    """
    for name in _OFFLINE:
        os.environ[name] = "1"
    # ms-swift prints its arguments and the whole model, and warns of remote code that no folder we accept can have
    os.environ.setdefault("LOG_LEVEL", "ERROR")
    import torch
    from datasets import Dataset
    from swift.model.register import ModelLoader
    from swift.pipelines import SwiftSft
    from transformers import PrinterCallback
    from transformers.utils.logging import disable_progress_bar

    from emoverse.training.callbacks import Display, Ledger, Watch
    from emoverse.training.rows import our_batches
    from emoverse.training.swift_arguments import swift_arguments
    from emoverse.training.swift_template import use_frames

    if not sys.stderr.isatty():
        disable_progress_bar()
    scratch.mkdir(parents=True, exist_ok=True)
    resume, skipped = last_complete(scratch, params.gpus)
    for sentence in skipped if rank() == 0 else ():
        print(f"train: {sentence}", flush=True)
    if resume and rank() == 0:
        print(f"train: going on from {resume.name}", flush=True)
    ModelLoader.default_trust_remote_code = False
    use_frames(frames)
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
    arguments += ["--disable_tqdm", "true"]
    tokens = {row["channel"]: length for row, length in zip(rows, lengths, strict=True)}
    display = Display(label, tokens, tensorboard)
    ledger = Ledger(scratch, int(resume.name.rpartition("-")[2]) if resume else 0, rank())

    class Session(SwiftSft):  # type: ignore[misc]
        """ms-swift's own training, with our rows already read and our watch beside the trainer."""

        def _get_dataset(self) -> tuple[Any, None]:
            # the rows are checked and small; ms-swift's loader would write a copy of them to a cache in the home folder
            return Dataset.from_list([_standard(*pair) for pair in zip(rows, lengths, strict=True)]), None

        def train(self, trainer: Any) -> Any:
            self.trainer = trainer
            self.watch = Watch(trainer, ledger, tokens, display.saw, stop)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(self.watch)
            trainer.add_callback(display)
            ordered = our_batches() if params.group_by_length or params.gpus > 1 else nullcontext()
            with display, ordered:
                return super().train(trainer)

    stop = Stop(scratch)
    with full_disk_named(scratch, params.gpus), on_sigterm(stop.ask):
        join_shards(params, cpu=cpu)
        session = Session(arguments)
        session.main()
    state = session.trainer.state
    if session.watch.stopped and state.global_step < state.max_steps:
        raise PreemptedError(f"stopped at step {state.global_step} of {state.max_steps}, saved; run again to go on")
    keys = ("loss", "grad_norm", "learning_rate", "epoch", "step")
    log = [{key: entry[key] for key in keys if key in entry} for entry in state.log_history if "loss" in entry]
    checkpoint, _ = last_complete(scratch, params.gpus)
    if checkpoint is None:
        raise ValueError(f"training ended without a complete checkpoint in {scratch}")
    return Trained(checkpoint, log, ledger.counts(), int(state.global_step), display.speed())


def _standard(row: dict[str, Any], length: int) -> dict[str, Any]:
    images = [{"bytes": None, "path": image} for image in row["images"]]
    # ms-swift groups rows of like length by a column it makes only when it encodes all rows beforehand
    return {**row, "images": images, "lengths": length}
