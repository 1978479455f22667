"""Show a person how training goes: a bar on a terminal, a line now and then in a log, TensorBoard on request."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Self

from transformers import TrainerCallback

EVERY: Final = 30.0  # seconds between two lines of a log
SOON: Final = 0.5  # seconds between two states of a bar


class Display(TrainerCallback, AbstractContextManager["Display"]):  # type: ignore[misc]
    """Count rows and real tokens (padding aside) as they are trained, and show loss, speed and time left."""

    def __init__(self, label: str, tokens: Mapping[str, int], tensorboard: Path | None = None) -> None:
        """Prepare to show ``label``; ``tokens`` of each row by its id; ``tensorboard`` a folder for event files."""
        self._label, self._tokens, self._folder = label, tokens, tensorboard
        self._steps = self._rows = self._real = 0
        self._loss = math.nan
        self._began = self._ended = self._shown = self._cpu = self._cpu_ended = 0.0
        self._bar: Any = None
        self._board: Any = None

    def __enter__(self) -> Self:
        """Do nothing yet: the bar starts with the first step."""
        return self

    def __exit__(self, *error: object) -> None:
        """Put the terminal right again, also when training broke off."""
        self._ended, self._cpu_ended = time.perf_counter(), _cpu_seconds()
        for one, close in ((self._bar, "stop"), (self._board, "close")):
            if one is not None:
                getattr(one, close)()

    def saw(self, rows: Sequence[str]) -> None:
        """Count the rows of an optimizer step that is done."""
        self._steps += 1
        self._rows += len(rows)
        self._real += sum(self._tokens[row] for row in rows)

    def speed(self) -> dict[str, float]:
        """Return what this run trained and how fast, start-up and saving of the model aside."""
        seconds = (self._ended or time.perf_counter()) - self._began
        return {
            "steps": self._steps,
            "rows": self._rows,
            "tokens": self._real,
            "seconds": seconds,
            "cpu_seconds": (self._cpu_ended or _cpu_seconds()) - self._cpu,
            "rows_per_second": self._rows / seconds,
            "tokens_per_second": self._real / seconds,
        }

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock, and on the first process the bar and the event file."""
        self._began = self._shown = time.perf_counter()
        self._cpu = _cpu_seconds()
        if not state.is_world_process_zero:
            return
        if sys.stderr.isatty():
            self._bar = _bar(self._label, state.global_step, state.max_steps)
            self._bar.start()
        if self._folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            # what a killed run wrote after the checkpoint that this one goes on from is not shown
            self._board = SummaryWriter(str(self._folder), purge_step=state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep the loss, and hand TensorBoard the loss, the learning rate and the speed."""
        if "loss" not in (logs or {}):
            return
        self._loss = float(logs["loss"])
        if self._board is not None:
            for name in ("loss", "grad_norm", "learning_rate"):
                if name in logs:
                    self._board.add_scalar(f"train/{name}", float(logs[name]), state.global_step)
            self._board.add_scalar("speed/tokens_per_second", self.speed()["tokens_per_second"], state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar, or write a line when the last one is old."""
        now = time.perf_counter()
        due = now - self._shown >= (SOON if self._bar else EVERY) or state.global_step == state.max_steps
        if due and state.is_world_process_zero:
            self._shown = now
            self._show(state.global_step, state.max_steps)

    def _show(self, step: int, steps: int) -> None:
        speed = self.speed()
        pace = f"{speed['rows_per_second']:.1f} rows/s  {speed['tokens_per_second']:,.0f} tokens/s{_gpu()}"
        if self._bar is not None:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=step, loss=self._loss, pace=pace)
            return
        left = (steps - step) * speed["seconds"] / max(self._steps, 1)
        line = f"{self._label}: step {step}/{steps}  loss {self._loss:.3f}  {pace}  {left:.0f} s left"
        print(line, file=sys.stderr, flush=True)


def _bar(label: str, done: int, steps: int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    facts = TextColumn("loss {task.fields[loss]:.3f}  {task.fields[pace]}")
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), facts, TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    bar.add_task("", total=steps, completed=done, loss=math.nan, pace="")
    return bar


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _gpu() -> str:
    """Describe this process's GPU: memory taken and, where NVIDIA's library is installed, how busy it is."""
    import torch

    if not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    text = f"  GPU {(total - free) / 2**30:.1f}/{total / 2**30:.0f} GiB"
    try:
        return f"{text} {torch.cuda.utilization()} %"
    except (ModuleNotFoundError, RuntimeError):  # nvidia-ml-py is not installed, or the driver does not say
        return text
