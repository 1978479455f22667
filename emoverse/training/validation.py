"""Score a model on the validation sets of its stage while it is trained and afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from transformers import TrainerCallback

from emoverse.compat.transformers import sdpa_attention
from emoverse.config import TrainParams
from emoverse.inference.engine import Engine
from emoverse.inference.test_sets import EvaluationSet, Frames, evenly_spaced, scores_of
from emoverse.inference.torch_engine import TorchBackend, load_model
from emoverse.prompt import Encoder, settings_of_model
from emoverse.training.checkpoints import read_lines
from emoverse.training.distributed import all_gather, rank

MAX_NEW_TOKENS: Final = 64  # of a reply to an open question
FILE: Final = "validation.jsonl"


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
        self.frames, self.model, self.params, self.path = frames, model, params, scratch / FILE
        if rank() == 0:
            kept = [entry for entry in read_results(scratch) if entry["step"] <= resumed_from]
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
        with _evaluating(model) as network, self.trainer.compute_loss_context_manager():
            engine = Engine(TorchBackend(network), encoder, self.frames, batch_size=self.params.batch_size)
            return score_sets(engine, self.sets)


@contextmanager
def _evaluating(model: Any) -> Iterator[Any]:
    """Yield the network without PEFT's wrapper, in eval mode and with an attention that takes any mask."""
    network = model.get_base_model() if hasattr(model, "get_base_model") else model
    model.eval()
    try:
        with sdpa_attention(network):
            yield network
    finally:
        model.train()


def read_results(scratch: Path) -> list[dict[str, Any]]:
    """Return the results of the checkpoints in a scratch folder."""
    return list(read_lines(scratch / FILE))


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
