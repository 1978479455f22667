"""Synthesise what training reads: a tiny model, frames of noise, and the rows of a stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from emoverse.artifacts.manifest import publish
from emoverse.config import TrainParams
from emoverse.media.frames import FrameStore
from emoverse.models.convert import convert
from tests.factories.answering import MEDIA, make_model, make_validated, rows_of, utterances, write_rows
from tests.factories.internvl2 import config, write_checkpoint

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
        "projector": "full" if changes.get("tuner") == "full" else "lora",
        "warmup": 0.05, "weight_decay": 0.1, "dtype": "float32", "save_every": 2,
        "attention": "sdpa", "gradient_checkpointing": False, "group_by_length": True, "workers": 0, "gpus": 1,
    }  # fmt: skip
    return TrainParams(**{**settings, **changes})


def original_format(row: dict[str, Any], image_tokens: int, n_frames: int) -> str:
    """Write a row as InternVL2's own code does for Hermes-2 and internlm2-chat (conversation.py, style MPT)."""
    system, question, answer = (message["content"] for message in row["messages"])
    context = "<img>" + "<IMG_CONTEXT>" * image_tokens + "</img>\n"
    if row["videos"]:
        shown = "".join(f"Frame{i + 1}: {context}" for i in range(n_frames))
        question = shown + question.removeprefix("<video>")
    else:
        question = context + question.removeprefix("<image>")
    turns = (("system", system), ("user", question), ("assistant", answer))
    return "".join(f"<|im_start|>{role}\n{words}<|im_end|>" for role, words in turns)


def make_converted(folder: Path, kind: str, *, text: dict[str, Any] | None = None) -> Path:
    """Publish a tiny InternVL of one text model (``qwen2``, ``internlm2`` ...), converted from the original form.

    It sees frames as ``make_validated`` makes them; ``text`` overrides settings of the text model.
    """
    size = {"image_size": MEDIA.size, "patch_size": MEDIA.size // 4}
    original = write_checkpoint(folder / "original", config(kind, text=text, vision=size, force_image_size=MEDIA.size))
    convert(original, folder / "converted")
    return folder / "converted"


def trainers_template(model: Path, frames: FrameStore) -> Any:
    """Return ms-swift's template as training sets it up for a model folder, looking up media in ``frames``."""
    from swift.model import get_model_processor
    from swift.template import get_template

    from emoverse.training.swift_setup import TEMPLATE, register_frames

    register_frames(frames)
    _, processor = get_model_processor(str(model), load_model=False, model_type="internvl", use_hf=True)
    template = get_template(processor, template_type=TEMPLATE, max_length=4096)
    template.set_mode("train")
    return template


def make_training(folder: Path, edit: Callable[[Rows], Any] = lambda rows: None, count: int = 12) -> dict[str, Path]:
    """Publish a base model, frames, validation sets and a stage whose rows ``edit`` may spoil; return the folders."""
    rows = stage_rows(count)
    validation = rows_of("mer", utterances("meld", count))[::2]
    ids = [row["utterance_id"] for row in rows]
    edit(rows)
    with publish(folder / "amt", step="build-amt", params={}, inputs={}, code_of="report") as draft:
        for stage in ("stage1", "stage2"):
            write_rows(draft.path / f"{stage}.jsonl", rows)
        (draft.path / "validation").mkdir()
        write_rows(draft.path / "validation" / "meld-mer.jsonl", validation)
        write_rows(draft.path / "validation" / "meld-msa.jsonl", rows_of("msa", utterances("meld", 4)))
    return {
        "model": make_model(folder / "base"),
        "amt": folder / "amt",
        "meld": make_validated(folder / "meld", "meld", ids),
    }
