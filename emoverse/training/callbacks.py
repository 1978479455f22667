"""Callbacks of a training.

They keep the ledger of rows, stop on NaN, save when preempted, score the model at checkpoints, and show progress.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import torch
from transformers import TrainerCallback

from emoverse.compat.transformers import attention_of, has_experts, sdpa_attention
from emoverse.config import TrainParams
from emoverse.errors import RowErrors, UserError
from emoverse.inference.engine import Engine
from emoverse.inference.test_sets import EvaluationSet, Frames, evenly_spaced, scores_of
from emoverse.inference.torch_engine import TorchBackend, load_model
from emoverse.prompt import Encoder, settings_of_model
from emoverse.training.checkpoints import Ledger, read_lines
from emoverse.training.distributed import StopRequest, all_gather, rank, scales_loss, sharded_gradient_norm

LINE_SECONDS: Final = 30.0  # between two lines of a log
BAR_SECONDS: Final = 0.5  # between two updates of a bar
MAX_NEW_TOKENS: Final = 64  # of a reply to an open question
VALIDATION_FILE: Final = "validation.jsonl"


class MonitorCallback(TrainerCallback):  # type: ignore[misc]
    """Fill the ledger, stop at the first loss or gradient that is not finite, and save and stop on request.

    ``stopped`` is true in the end if the training stopped on request.
    """

    def __init__(
        self, ledger: Ledger, tokens: Mapping[str, int], count: Callable[[list[str]], None], stop: StopRequest
    ) -> None:
        """Prepare to monitor a trainer.

        Args:
            ledger: Receives the rows of each step.
            tokens: Of each row by its id; a row with more or fewer stops the training.
            count: Called with the rows of each finished optimizer step.
            stop: The request to stop.
        """
        self.ledger, self.tokens, self.count, self.stop = ledger, tokens, count, stop
        self.stopped = False
        self._rows: list[str] = []

    def attach(self, trainer: Any) -> None:
        """Wrap the trainer's ``training_step``: only there are the rows known that are really trained."""
        self.trainer, self._inner = trainer, trainer.training_step
        trainer.training_step = self._training_step

    def _training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        rows = [str(row) for row in inputs["channel"]]
        fed = inputs["attention_mask"].sum(1)
        if sees_no_padding(self.trainer.model.config, inputs["attention_mask"]):
            inputs = {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}
        loss = self._inner(model, inputs, *args, **kwargs)
        self._check_tokens(rows, fed.tolist())
        if not math.isfinite(float(loss.detach())):
            raise _diverged("loss", float(loss.detach()), self.trainer.state.global_step, rows)
        self._rows += rows
        return loss

    def _check_tokens(self, rows: list[str], fed: list[int]) -> None:
        problems = [
            f"{row}: {count} tokens, expected {self.tokens[row]}"
            for row, count in zip(rows, fed, strict=True)
            if count != self.tokens[row]
        ]
        if problems:
            raise RowErrors(problems, remedy="report this as a bug of emoverse: the trainer received different rows")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a gradient that would make the weights NaN, so that every checkpoint is usable."""
        if scales_loss(self.trainer):
            return
        grads = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(grads))
        if not math.isfinite(norm):
            raise _diverged("gradient", norm, state.global_step, self._rows)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Close the step in the ledger; on request, save a checkpoint and stop."""
        norm = sharded_gradient_norm(self.trainer)
        # the weights are NaN now, but not saved yet
        if norm is not None and not math.isfinite(norm) and not scales_loss(self.trainer):
            raise _diverged("gradient", norm, state.global_step - 1, self._rows)
        self.ledger.add(state.global_step, self._rows)
        gathered = all_gather((self._rows, self.stop.requested))  # all processes must stop at the same step
        self.count([row for rows, _ in gathered for row in rows])
        self._rows = []
        self.stopped = any(requested for _, requested in gathered)
        if self.stopped:
            control.should_save = control.should_training_stop = True
        return control


def sees_no_padding(config: Any, mask: torch.Tensor) -> bool:
    """Return whether training on a batch gives the same with a mask of ones.

    Causal attention looks back, so no row sees padding on its right, and the loss leaves padding out. Without a mask
    torch's attention takes its causal kernel, which computes half as much; flash attention needs the mask to remove
    the padding, and a mixture of experts to balance its experts over real tokens.

    Args:
        config: The model's.
        mask: (rows, tokens), 1 for tokens and 0 for padding.
    """
    if attention_of(config) != "sdpa" or has_experts(config):
        return False
    return bool((mask[:, 1:] <= mask[:, :-1]).all())


def _diverged(name: str, value: float, step: int, rows: list[str]) -> UserError:
    shown = ", ".join(rows[:4]) + (" ..." if len(rows) > 4 else "")
    return UserError(
        f"{name} {value} at step {step + 1} (rows {shown}): stopped at the last good checkpoint",
        remedy="lower learning_rate in params.yaml, or check those rows",
    )


class ValidationCallback(TrainerCallback):  # type: ignore[misc]
    """Score ``params.validation_rows`` of each set at every regular checkpoint; name the best one in the state.

    The results are appended to ``validation.jsonl`` in the scratch folder. ``state.best_global_step`` keeps
    transformers from deleting the best checkpoint.
    """

    def __init__(
        self,
        sets: Sequence[EvaluationSet],
        frames: Frames,
        model: Path,
        params: TrainParams,
        scratch: Path,
        resumed_from: int,
    ) -> None:
        """Prepare to score.

        Args:
            sets: The validation sets of the stage.
            frames: Frames by reference.
            model: The model folder, for tokenizer and settings.
            params: The stage's parameters.
            scratch: Folder of ``validation.jsonl``.
            resumed_from: Step of the checkpoint that training resumes from; later results are dropped, as they run
                again.
        """
        rows = params.validation_rows
        self.sets = [replace(item, rows=tuple(evenly_spaced(item.rows, rows))) for item in sets] if rows else []
        self.frames, self.model, self.params, self.path = frames, model, params, scratch / VALIDATION_FILE
        if rank() == 0:
            kept = [entry for entry in read_validation(scratch) if entry["step"] <= resumed_from]
            self.path.write_text("".join(json.dumps(entry, allow_nan=False) + "\n" for entry in kept), "utf-8")

    def attach(self, trainer: Any) -> None:
        """Keep the trainer, whose model is scored."""
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score the model before a regular checkpoint is saved; a checkpoint for preemption is not scored."""
        step = state.global_step
        if not self.sets or (step % self.params.save_every and step != state.max_steps):
            return
        result = all_gather(self._score() if rank() == 0 else None)[0]
        assert result is not None
        if rank() == 0:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **result}, sort_keys=True, allow_nan=False) + "\n")
        if self.params.select != "last":
            value = result["score"] if self.params.select == "score" else -result["loss"]
            if state.best_metric is None or value > state.best_metric:
                state.best_metric, state.best_global_step = value, step

    def _score(self) -> dict[str, Any]:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        encoder = Encoder(self.model, settings_of_model(self.model))
        with _in_eval_mode(model) as network, self.trainer.compute_loss_context_manager():
            engine = Engine(TorchBackend(network), encoder, self.frames, batch_size=self.params.batch_size)
            return score_sets(engine, self.sets)


@contextmanager
def _in_eval_mode(model: Any) -> Iterator[Any]:
    """Yield the network without PEFT's wrapper, in eval mode and with an attention that takes any mask."""
    network = model.get_base_model() if hasattr(model, "get_base_model") else model
    model.eval()
    try:
        with sdpa_attention(network):
            yield network
    finally:
        model.train()


def read_validation(scratch: Path) -> list[dict[str, Any]]:
    """Return the results of the checkpoints in a scratch folder."""
    return list(read_lines(scratch / VALIDATION_FILE))


def score_model(model: Path, sets: Sequence[EvaluationSet], frames: Frames, batch_size: int) -> dict[str, Any]:
    """Score a finished model on whole validation sets.

    Args:
        model: The model folder.
        sets: The validation sets.
        frames: Frames by reference.
        batch_size: Most rows run at once.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = Encoder(model, settings_of_model(model))
    return score_sets(Engine(TorchBackend(load_model(model, device)), encoder, frames, batch_size=batch_size), sets)


def score_sets(engine: Engine, sets: Sequence[EvaluationSet]) -> dict[str, Any]:
    """Return the loss (nats a token of the answers), and the scores of each set and task.

    ``score`` is the mean of the sets' headline scores, ``tasks`` each task's scores averaged over its sets by rows.
    """
    nats, tokens = 0.0, 0
    results: dict[str, dict[str, Any]] = {}
    for item in sets:
        expected = [row["messages"][-1]["content"] for row in item.rows]
        tokens += sum(len(engine.encoder.answer_ids(answer)) for answer in expected)
        if item.answers:
            log_probabilities, chosen = engine.score_answers(item.rows, item.answers)
            replies = [item.answers[index] for index in chosen]
            indices = [item.answers.index(answer) for answer in expected]
            nats -= float(log_probabilities[range(len(indices)), indices].sum())
        else:
            replies = engine.generate(item.rows, MAX_NEW_TOKENS)
            for row, answer in zip(item.rows, expected, strict=True):
                nats -= float(engine.score_answers([row], [answer])[0][0, 0])
        headline, scores = scores_of(item, replies)
        results[item.name] = {"n": len(item.rows), "headline": scores[headline], **scores}
    tasks: dict[str, dict[str, float]] = {}
    for task in sorted({item.task for item in sets}):
        parts = [results[item.name] for item in sets if item.task == task]
        shared = set.intersection(*(set(part) for part in parts)) - {"n"}
        total = sum(part["n"] for part in parts)
        tasks[task] = {key: sum(part["n"] * part[key] for part in parts) / total for key in sorted(shared)}
    score = sum(result["headline"] for result in results.values()) / len(results)
    return {"loss": nats / tokens, "score": score, "tasks": tasks, "sets": results}


class DisplayCallback(TrainerCallback, AbstractContextManager["DisplayCallback"]):  # type: ignore[misc]
    """Count trained rows and tokens without padding, and show loss, speed and remaining time."""

    def __init__(self, label: str, tokens: Mapping[str, int], tensorboard: Path | None = None) -> None:
        """Prepare to show ``label``; ``tokens`` of each row by its id; ``tensorboard`` a folder for event files."""
        self._label, self._tokens, self._folder = label, tokens, tensorboard
        self._steps = self._rows = self._token_count = 0
        self._loss = math.nan
        self._began = self._ended = self._shown = self._cpu = self._cpu_ended = 0.0
        self._bar: Any = None
        self._board: Any = None

    def __enter__(self) -> Self:
        """Do nothing: the bar starts with the training."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the clock and restore the terminal, also after an error."""
        self._ended, self._cpu_ended = time.perf_counter(), _cpu_seconds()
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()

    def count(self, rows: Sequence[str]) -> None:
        """Count the rows of a finished optimizer step."""
        self._steps += 1
        self._rows += len(rows)
        self._token_count += sum(self._tokens[row] for row in rows)

    def speed(self) -> dict[str, float]:
        """Return what this run trained and how fast, without start-up and saving of the model."""
        seconds = (self._ended or time.perf_counter()) - self._began
        return {
            "steps": self._steps,
            "rows": self._rows,
            "tokens": self._token_count,
            "seconds": seconds,
            "cpu_seconds": (self._cpu_ended or _cpu_seconds()) - self._cpu,
            "rows_per_second": self._rows / seconds,
            "tokens_per_second": self._token_count / seconds,
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

            # purge what a killed run wrote after the checkpoint that this one resumes from
            self._board = SummaryWriter(str(self._folder), purge_step=state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep the loss, and write the loss, the learning rate and the speed to TensorBoard."""
        if "loss" not in (logs or {}):
            return
        self._loss = float(logs["loss"])
        if self._board is not None:
            for name in ("loss", "grad_norm", "learning_rate"):
                if name in logs:
                    self._board.add_scalar(f"train/{name}", float(logs[name]), state.global_step)
            self._board.add_scalar("speed/tokens_per_second", self.speed()["tokens_per_second"], state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Update the bar, or write a line if the last one is old enough."""
        now = time.perf_counter()
        due = now - self._shown >= (BAR_SECONDS if self._bar else LINE_SECONDS) or state.global_step == state.max_steps
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

    status = TextColumn("loss {task.fields[loss]:.3f}  {task.fields[pace]}")
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), status, TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    bar.add_task("", total=steps, completed=done, loss=math.nan, pace="")
    return bar


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _gpu() -> str:
    """Describe this process's GPU: memory in use and, where NVIDIA's library is installed, its utilisation."""
    import torch

    if not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    text = f"  GPU {(total - free) / 2**30:.1f}/{total / 2**30:.0f} GiB"
    try:
        return f"{text} {torch.cuda.utilization()} %"
    except (ModuleNotFoundError, RuntimeError):  # nvidia-ml-py is not installed, or the driver does not report it
        return text
