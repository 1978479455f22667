"""Watch the trainer: which rows each step saw, whether its numbers are finite, whether somebody wants it to stop."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from emoverse.errors import RowErrors, UserError
from emoverse.training.ranks import gathered
from emoverse.training.sharding import sharded_gradient
from emoverse.training.stopping import Stop


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

        grads = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(grads))
        if not math.isfinite(norm):
            raise _diverged("gradient", norm, state.global_step, self._rows)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Close the step in the ledger; on request, save a checkpoint and stop."""
        norm = sharded_gradient(self.trainer)
        if norm is not None and not math.isfinite(norm):  # the weights are spoilt, but not saved yet
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
