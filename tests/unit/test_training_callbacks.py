"""Callbacks of a training: what stops it, and what it shows."""

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from emoverse.errors import UserError
from emoverse.training.callbacks import DisplayCallback, MonitorCallback
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


TOKENS = {f"row{n}": 100 + n for n in range(40)}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train(display: DisplayCallback, first: int = 0, steps: int = 10) -> None:
    """Drive the display as the trainer does: four rows a step, the loss halved at each."""
    state = SimpleNamespace(is_world_process_zero=True, global_step=first, max_steps=steps)
    with display:
        display.on_train_begin(None, state, None)
        for step in range(first + 1, steps + 1):
            state.global_step = step
            display.count([f"row{4 * (step - 1) + k}" for k in range(4)])
            display.on_step_end(None, state, None)
            display.on_log(None, state, None, logs={"loss": 2.0**-step, "learning_rate": 0.1})
        display.on_log(None, state, None, logs={"train_runtime": 1.0})


def test_rows_and_real_tokens_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    display = DisplayCallback("stage1", TOKENS)
    train(display)
    speed = display.speed()
    assert (speed["steps"], speed["rows"], speed["tokens"]) == (10, 40, sum(TOKENS.values()))
    assert speed["tokens_per_second"] == pytest.approx(speed["tokens"] / speed["seconds"])
    assert speed["cpu_seconds"] <= speed["seconds"] * 4
    assert display.speed() == speed, "the clock must stand still after training"
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"stage1: step 10/10  loss 0\.002  [\d.]+ rows/s  [\d,]+ tokens/s.*  0 s left", line)


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    train(DisplayCallback("stage1", TOKENS))
    assert "10/10" in terminal.getvalue()
    assert "tokens/s" in terminal.getvalue()


def test_tensorboard_goes_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(DisplayCallback("stage1", TOKENS, tmp_path), steps=6)
    train(DisplayCallback("stage1", TOKENS, tmp_path), first=4)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 11))
    assert events.Scalars("train/learning_rate")[0].value == pytest.approx(0.1)
