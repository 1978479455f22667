"""Which gradients stop a training: those that would spoil the weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from emoverse.errors import UserError
from emoverse.training.callbacks import MonitorCallback
from emoverse.training.checkpoints import Ledger
from emoverse.training.distributed import StopRequest


def watch(folder: Path, gradient: float, scaler: object = None) -> MonitorCallback:
    model = torch.nn.Linear(2, 2)
    for weights in model.parameters():
        weights.grad = torch.full_like(weights, gradient)
    accelerator = SimpleNamespace(scaler=scaler)
    trainer = SimpleNamespace(model=model, training_step=None, is_deepspeed_enabled=False, accelerator=accelerator)
    monitor = MonitorCallback(Ledger(folder, 0), {}, lambda rows: None, StopRequest(folder))
    monitor.attach(trainer)
    return monitor


def before_the_step(one: MonitorCallback) -> Any:
    return one.on_pre_optimizer_step(None, SimpleNamespace(global_step=4), None)


def test_a_gradient_that_is_no_number_stops_the_training_before_the_weights_take_it(tmp_path: Path) -> None:
    before_the_step(watch(tmp_path, 0.5))
    with pytest.raises(UserError, match="gradient inf at step 5"):
        before_the_step(watch(tmp_path, float("inf")))


def test_a_loss_scale_may_be_too_large_at_first(tmp_path: Path) -> None:
    before_the_step(watch(tmp_path, float("inf"), scaler=torch.amp.GradScaler("cpu")))
