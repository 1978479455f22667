"""Watch a training: stop on NaN, show progress, save when preempted."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Self

from transformers import TrainerCallback

from emoverse.errors import RowErrors, UserError
from emoverse.training.distributed import Stop, finds_its_scale, gathered, sharded_gradient


class Ledger:
    """The ids of the rows that each optimizer step saw, kept beside the checkpoints, a file for each process.

    A line is ``{"step": 7, "rows": [...]}``; after a resume, lines of steps that will be run again are dropped.
    """

    def __init__(self, folder: Path, resumed_from: int, rank: int = 0) -> None:
        """Open the ledger of process ``rank``, forgetting what came after step ``resumed_from``."""
        self.folder, self.path = folder, folder / f"ledger-{rank}.jsonl"
        kept = [line for line in _lines(self.path) if line["step"] <= resumed_from]
        self.path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), "utf-8")

    def add(self, step: int, rows: list[str]) -> None:
        """Write down what a step saw, at once."""
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": step, "rows": rows}, ensure_ascii=False) + "\n")

    def counts(self) -> Counter[str]:
        """Return how often each row was seen, by all processes together."""
        files = sorted(self.folder.glob("ledger-*.jsonl"))
        return Counter(row for path in files for line in _lines(path) for row in line["rows"])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text("utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return  # cut off by a kill: what follows was not trained before the last checkpoint either


class Watch(TrainerCallback):  # type: ignore[misc]
    """Fill the ledger, stop at the first loss or gradient that is not finite, and save and stop on request."""

    def __init__(
        self, trainer: Any, ledger: Ledger, tokens: Mapping[str, int], saw: Callable[[list[str]], None], stop: Stop
    ) -> None:
        """Wrap the trainer's ``training_step``, which alone sees the rows that are really trained.

        ``tokens`` of each row by its id: a row that comes with more or fewer stops the training. ``saw`` is told the
        rows of each optimizer step that is done. ``stopped`` tells in the end whether ``stop`` was obeyed.
        """
        self.trainer, self.ledger, self.tokens, self.saw, self.stop = trainer, ledger, tokens, saw, stop
        self.stopped = False
        self._rows: list[str] = []
        self._inner = trainer.training_step
        trainer.training_step = self._training_step

    def _training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        rows = [str(row) for row in inputs["channel"]]
        fed = inputs["attention_mask"].sum(1)
        loss = self._inner(model, inputs, *args, **kwargs)
        self._check_tokens(rows, fed.tolist())
        if not math.isfinite(float(loss.detach())):
            raise _diverged("loss", float(loss.detach()), self.trainer.state.global_step, rows)
        self._rows += rows
        return loss

    def _check_tokens(self, rows: list[str], fed: list[int]) -> None:
        cut = [f"{row}: {n} tokens, not {self.tokens[row]}" for row, n in zip(rows, fed, strict=True)
               if n != self.tokens[row]]  # fmt: skip
        if cut:
            raise RowErrors(cut, remedy="report this as a bug of emoverse: the trainer was fed other rows than checked")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a gradient that would spoil the weights, so every checkpoint is a good one."""
        import torch

        if finds_its_scale(self.trainer):
            return
        grads = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(grads))
        if not math.isfinite(norm):
            raise _diverged("gradient", norm, state.global_step, self._rows)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Close the step in the ledger; on request, save a checkpoint and stop."""
        norm = sharded_gradient(self.trainer)
        if (
            norm is not None and not math.isfinite(norm) and not finds_its_scale(self.trainer)
        ):  # the weights are spoilt, but not saved yet
            raise _diverged("gradient", norm, state.global_step - 1, self._rows)
        self.ledger.add(state.global_step, self._rows)
        every = gathered((self._rows, self.stop.asked))  # of all processes: they must stop at the same step
        self.saw([row for rows, _ in every for row in rows])
        self._rows = []
        self.stopped = any(asked for _, asked in every)
        if self.stopped:
            control.should_save = control.should_training_stop = True
        return control


def _diverged(what: str, value: float, step: int, rows: list[str]) -> UserError:
    shown = ", ".join(rows[:4]) + (" ..." if len(rows) > 4 else "")
    return UserError(
        f"{what} {value} at step {step + 1} (rows {shown}): stopped at the last good checkpoint",
        remedy="lower learning_rate in params.yaml, or look at those rows",
    )


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
