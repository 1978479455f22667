"""Synthesise what training reads: a tiny model, frames of noise, and the rows of a stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from emoverse.manifest import publish
from emoverse.params import TrainParams
from tests.factories.answering import make_model, make_validated, rows_of, utterances, write_rows

Rows = list[dict[str, Any]]


def stage_rows(count: int = 12) -> Rows:
    """Make a stage's rows: emotions of clips and, in every third, the face of a still."""
    rows = rows_of("mer", utterances("meld", count))
    for row in rows:
        del row["gold"]
    for row in rows[::3]:
        row["images"], row["videos"] = [row["videos"][0] + "#peak"], []
        row["messages"][1]["content"] = row["messages"][1]["content"].replace("<video>", "<image>")
    return rows


def train_params(**changes: Any) -> TrainParams:
    """Make parameters of a short training on a CPU."""
    settings: dict[str, Any] = {
        "seed": 42, "epochs": 2.0, "learning_rate": 2e-3, "batch_size": 4, "accumulation": 1, "max_length": 512,
        "tuner": "lora", "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0, "train_vision": False,
        "train_projector": True, "warmup": 0.05, "weight_decay": 0.1, "dtype": "float32", "save_every": 2,
    }  # fmt: skip
    return TrainParams(**{**settings, **changes})


def make_training(folder: Path, edit: Callable[[Rows], Any] = lambda rows: None, count: int = 12) -> dict[str, Path]:
    """Publish a base model, frames and a stage whose rows ``edit`` may spoil; return the folders by name."""
    rows = stage_rows(count)
    ids = [row["utterance_id"] for row in rows]
    edit(rows)
    with publish(folder / "amt", step="build-amt", params={}, inputs={}, code=()) as draft:
        for stage in ("stage1", "stage2"):
            write_rows(draft.path / f"{stage}.jsonl", rows)
    return {
        "model": make_model(folder / "base"),
        "amt": folder / "amt",
        "meld": make_validated(folder / "meld", "meld", ids),
    }
