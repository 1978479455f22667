"""Synthesise what evaluation and export read: a tiny model, frames and test rows, published as steps publish them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from emoverse.amt.build_amt import baselines
from emoverse.artifacts.manifest import publish, write_json
from emoverse.config import EvaluateParams, ExportParams, MediaParams, ToleranceParams, plain
from emoverse.corpora import EMOTIONS, Utterance
from emoverse.media.frames import write_index
from emoverse.media.shards import ShardWriter
from emoverse.models.tiny import build_model, build_processor, save_folder, train_tokenizer
from emoverse.tasks import Context, Question
from emoverse.tasks import task as task_named

MEDIA = MediaParams(frames=2, size=32, timeout=20.0)
TOLERANCE = ToleranceParams(absolute=1e-3, relative=1e-3, top1=1.0, greedy=1.0, answers=1.0, score=0.0)
EXPORT = ExportParams(precision=("fp32",), compared=8, one_file=1 << 30, tolerance={"fp32": TOLERANCE})
EVALUATE = EvaluateParams(
    controls=(), closed="likelihood", agreement=4, bootstrap=20, seed=0, batch_size=4, max_new_tokens=8
)
SYSTEM = "You are an sentiment and emotion analysis expert."
WORDS = ("hello there", "oh no, not again", "what a day", "I can't believe it", "fine", 'she said "go" to him')


def utterances(corpus: str, count: int, per_dialogue: int = 4) -> list[Utterance]:
    """Make utterances with emotions, sentiments and causes, ``per_dialogue`` to a dialogue."""
    return [_utterance(corpus, i, per_dialogue) for i in range(count)]


def _utterance(corpus: str, number: int, per_dialogue: int) -> Utterance:
    emotion = EMOTIONS[(number * 5) % len(EMOTIONS)]
    polarity = {"joy": "positive", "neutral": "neutral", "surprise": "positive"}.get(emotion, "negative")
    position = number % per_dialogue + 1
    name = f"{corpus}/test/dia{number // per_dialogue}_utt{position}"
    return Utterance(
        utterance_id=name,
        corpus=corpus,
        split="test",
        dialogue_id=str(number // per_dialogue),
        position=position,
        speaker="Ada",
        text=f"{WORDS[number % len(WORDS)]} {number}",
        emotion=emotion,
        polarity=polarity,
        sentiment=None,
        intensities=None,
        causes=(position,) if emotion != "neutral" and corpus == "ecf" else None,
        episode=None,
        start=None,
        end=None,
        clip=f"{name}.mp4",
        source=f"made up:{number}",
    )


def make_validated(folder: Path, corpus: str, ids: Iterable[str]) -> Path:
    """Publish frames of noise for each id, as validate leaves them; ids in ascending order."""
    noise = np.random.default_rng(5)
    with publish(folder, step="validate", name=corpus, params={"media": plain(MEDIA)}, inputs={}) as draft:
        frames = draft.path / "frames"
        writer, rows = ShardWriter(frames), []
        for name in sorted(ids):
            kinds = [("uniform", 0), ("uniform", 1), ("peak", 0)]
            slots = writer.add([(f"{name}-{kind}{n}.png", _png(noise, draft.path)) for kind, n in kinds])
            rows += [(name, kind, n, n, slot) for (kind, n), slot in zip(kinds, slots, strict=True)]
        writer.close()
        write_index(frames / "index.parquet", rows)
    return folder


def _png(noise: np.random.Generator, folder: Path) -> bytes:
    path = folder / "one.png"
    Image.fromarray(noise.integers(0, 256, (MEDIA.size, MEDIA.size, 3), dtype=np.uint8)).save(path)
    blob = path.read_bytes()
    path.unlink()
    return blob


def test_row(question: Question, task: str, one: Utterance, media: str) -> dict[str, Any]:
    """Make a row of AMT's test files."""
    image = media == "peak"
    return {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": ("<image>" if image else "<video>") + question.text},
            {"role": "assistant", "content": question.answer},
        ],
        "videos": [] if image else [f"clip:{one.utterance_id}"],
        "images": [f"clip:{one.utterance_id}#peak"] if image else [],
        "channel": f"{task}/{one.utterance_id}",
        "task": task,
        "corpus": one.corpus,
        "utterance_id": one.utterance_id,
        "gold": {**question.gold, "group": f"{one.corpus}/{one.split}/{one.dialogue_id}"},
    }


test_row.__test__ = False  # type: ignore[attr-defined]  # a factory, though its name begins with "test"


def rows_of(task: str, table: Sequence[Utterance]) -> list[dict[str, Any]]:
    """Ask one task about every utterance that it can be asked about."""
    one, found = task_named(task), []
    for utterance in table:
        dialogue = [other for other in table if other.dialogue_id == utterance.dialogue_id]
        question = one.question(Context(utterance=utterance, dialogue=dialogue))
        if isinstance(question, Question):
            found.append(test_row(question, task, utterance, one.media))
    return found


def make_amt(folder: Path, sets: dict[str, list[dict[str, Any]]], stage_rows: Sequence[dict[str, Any]] = ()) -> Path:
    """Publish test files by name (``meld-mer``) and both stages with the same rows, as build-amt leaves them."""
    with publish(folder, step="build-amt", params={}, inputs={}, code_of="report") as draft:
        (draft.path / "test").mkdir()
        for name, rows in sets.items():
            write_rows(draft.path / "test" / f"{name}.jsonl", rows)
        for stage in ("stage1", "stage2"):
            write_rows(draft.path / f"{stage}.jsonl", stage_rows)
        whole = all("gold" in row for rows in sets.values() for row in rows)  # a test may want broken rows
        write_json(draft.path / "baselines.json", baselines(draft.path, {}) if whole else {})
    return folder


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write JSON lines as build-amt does, without a space."""
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    path.write_text(text, "utf-8")
    return path


def make_model(folder: Path, seed: int = 1) -> Path:
    """Publish a tiny model with random weights, as base-model leaves it."""
    with publish(folder, step="base-model", params={}, inputs={}, code_of="report") as draft:
        write_model(draft.path / "model", seed)
    return folder


def write_model(folder: Path, seed: int = 1) -> None:
    """Write a tiny model whose replies are random: the one that is pretrained begins by repeating its last token."""
    texts = [*WORDS, "The person says: Please determine which emotion label. Joy. Anger. Sadness."] * 4
    tokenizer = train_tokenizer(texts, 400)
    model = build_model(tokenizer, MEDIA, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.model.language_model.named_parameters(), ("lm_head", model.lm_head.weight)):
            if tensor.ndim >= 2:
                std = 0.05 if "embed_tokens" in name else tensor.shape[-1] ** -0.5
                tensor.normal_(0.0, std, generator=generator)
            elif name.endswith("bias"):
                tensor.zero_()
    save_folder(model, build_processor(tokenizer, MEDIA), folder)


def make_inputs(folder: Path, *, utterances_per_corpus: int = 12) -> dict[str, Path]:
    """Publish a model, two validated corpora and their test sets; return the folders by name."""
    meld, ecf = utterances("meld", utterances_per_corpus), utterances("ecf", utterances_per_corpus)
    sets = {"meld-mer": rows_of("mer", meld), "meld-msa": rows_of("msa", meld), "ecf-ecpe": rows_of("ecpe", ecf)}
    sets["ecf-ecpe_semeval"] = rows_of("ecpe_semeval", ecf[:3])
    return {
        "model": make_model(folder / "model"),
        "amt": make_amt(folder / "amt", sets),
        "meld": make_validated(folder / "meld", "meld", [one.utterance_id for one in meld]),
        "ecf": make_validated(folder / "ecf", "ecf", [one.utterance_id for one in ecf]),
    }


def exported_model(base: Path) -> dict[str, Path]:
    """Return a prepared below ``base`` that was evaluated and exported, too; made once, as an export takes long."""
    from emoverse.evaluation.evaluate import evaluate
    from emoverse.export.export import export

    root = base / "exported-prepared"
    names = ("model", "amt", "meld", "ecf", "scores", "onnx")
    if not (root / "onnx" / "manifest.json").is_file():
        made = make_inputs(root, utterances_per_corpus=8)
        validated = [made["meld"], made["ecf"]]
        evaluate(made["model"], made["amt"], validated, root / "scores", EVALUATE)
        export(made["model"], root / "onnx", EXPORT, amt=made["amt"], validated=validated, scores=root / "scores")
    return {name: root / name for name in names}
