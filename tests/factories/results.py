"""Synthesise a finished run: each folder the report reads, as its step publishes it, with made-up replies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emoverse.artifacts.manifest import Source, open_raw, open_source, publish, write_json
from emoverse.artifacts.tables import write_quarantine, write_utterances
from emoverse.config import EvaluateParams
from emoverse.corpora import Quarantined, Utterance
from emoverse.evaluation.evaluate import Replies, measure, metrics, prediction_rows, write_jsonl, write_plots
from emoverse.inference.test_sets import EvaluationSet, read_sets
from emoverse.media.frames import write_index
from emoverse.media.shards import ShardWriter
from tests.factories.answering import _png, rows_of, utterances, write_model, write_rows

EVALUATE = EvaluateParams(
    controls=("text-only", "face-only"),
    closed="likelihood",
    agreement=0,
    bootstrap=50,
    seed=0,
    batch_size=4,
    max_new_tokens=8,
)


@dataclass(frozen=True)
class Results:
    """The folders of a finished run, in the order ``report`` takes them."""

    validated: list[Path]
    amt: Path
    stages: list[Path]
    scores: Path
    onnx: Path

    def arguments(self) -> tuple[list[Path], Path, list[Path], Path, Path]:
        return self.validated, self.amt, self.stages, self.scores, self.onnx


PARITY = {
    "rows": 8, "scored": 64, "bytes": 2_431_994, "largest_absolute": 1.2e-5, "largest_relative": 1e-6,
    "top1_agreement": 1.0, "greedy_equal": 1.0, "answers_equal": 1.0, "score_difference": 0.0,
    "tolerance": {"absolute": 1e-3, "relative": 1e-3, "top1": 1.0, "greedy": 1.0, "answers": 1.0, "score": 0.0},
}  # fmt: skip


def make_results(root: Path, *, words: str = "", count: int = 24, detail: str = "moov atom not found") -> Results:
    """Publish a run over two corpora below ``root``; ``words`` go into the transcripts, ``detail`` into quarantine."""
    tables = {name: _spoken(utterances(name, count), words) for name in ("meld", "ecf")}
    validated = [_validated(root, name, table, detail) for name, table in tables.items()]
    sources = {f"validated/{path.name}": open_source(path) for path in validated}
    sets = {f"{name}-{task}": rows_of(task, tables[name]) for name, task in (("meld", "mer"), ("ecf", "ecpe"))}
    amt = _amt(root / "data/amt", sets, sources)
    base = _stage(root / "data/base", "base-model", {}, steps=0)
    one = _stage(root / "data/stage1", "train", {**sources, "model": open_source(base), "amt": open_source(amt)}, 40)
    two = _stage(root / "data/stage2", "train", {**sources, "model": open_source(one), "amt": open_source(amt)}, 60)
    inputs = {**sources, "model": open_source(two), "amt": open_source(amt)}
    scores = _scores(root / "data/scores", read_sets(amt), inputs)
    with publish(
        root / "data/onnx", step="export", params={"precision": ["fp32"]}, inputs=inputs, code_of="report"
    ) as draft:
        write_json(draft.path / "parity.json", {"fp32": PARITY})
    return Results(validated, amt, [base, one, two], scores, root / "data/onnx")


def with_seed(results: Results, root: Path, seed: int, validation: float | None = None) -> Path:
    """Publish a second stage that was trained with another seed, and its scores; return these.

    ``validation`` is its score on the validation sets, None without any.
    """
    one, amt = open_source(results.stages[1]), open_source(results.amt)
    sources = {f"validated/{path.name}": open_source(path) for path in results.validated}
    two = _stage(root / "stage2", "train", {**sources, "model": one, "amt": amt}, 60, seed=seed)
    inputs = {**sources, "model": open_source(two), "amt": amt}
    return _scores(root / "scores", read_sets(results.amt), inputs, validation)


def _spoken(table: Sequence[Utterance], words: str) -> list[Utterance]:
    return [replace(one, text=f"{words} {one.text}".strip()) for one in table]


def _validated(root: Path, name: str, table: Sequence[Utterance], detail: str) -> Path:
    raw = root / "raw" / name.upper()
    raw.mkdir(parents=True)
    (raw / "labels.csv").write_text("".join(f"{one.utterance_id},{one.emotion}\n" for one in table), "utf-8")
    out, noise = root / "data/validated" / name, np.random.default_rng(5)
    with publish(
        out,
        step="validate",
        name=name,
        params={"media": {"frames": 2}},
        inputs={"raw": open_raw(raw, name=name)},
    ) as draft:
        ordered = sorted(table, key=lambda one: one.utterance_id)
        write_utterances(draft.path / "utterances.parquet", ordered)
        bad = Quarantined(row_id=f"{name}/train/bad", source="labels.csv:7", column="clip", reason="clip-unreadable",
                          detail=detail)  # fmt: skip
        write_quarantine(draft.path / "quarantine.parquet", [(bad, False)])
        writer, rows = ShardWriter(draft.path / "frames"), []
        for one in ordered:
            kinds = [("uniform", 0), ("uniform", 1), ("peak", 0)]
            slots = writer.add([(f"{one.utterance_id}-{kind}{n}.png", _png(noise, draft.path)) for kind, n in kinds])
            rows += [(one.utterance_id, kind, n, n, slot) for (kind, n), slot in zip(kinds, slots, strict=True)]
        writer.close()
        write_index(draft.path / "frames/index.parquet", rows)
        write_json(draft.path / "summary.json", {"clips": {"with_audio": 3}})
        (draft.path / "page.html").write_text("<p>checked</p>", "utf-8")
        draft.count(rows_in=len(ordered) + 1, rows_out=len(ordered), dropped={"clip-unreadable": 1})
    return out


def _amt(out: Path, sets: dict[str, list[dict[str, object]]], sources: dict[str, Source]) -> Path:
    with publish(out, step="build-amt", params={"seed": 7}, inputs=sources, code_of="report") as draft:
        (draft.path / "test").mkdir()
        for name, rows in sets.items():
            write_rows(draft.path / "test" / f"{name}.jsonl", rows)
        everything = [row for rows in sets.values() for row in rows]
        write_rows(draft.path / "stage1.jsonl", everything[::2])
        write_rows(draft.path / "stage2.jsonl", everything)
        write_json(draft.path / "audit.json", {"leakage": {"dropped": 0}, "conflicts": []})
        draft.count(rows_in=len(everything), rows_out=len(everything))
    return out


def _stage(out: Path, step: str, inputs: dict[str, Source], steps: int, *, seed: int = 42) -> Path:
    params = {"seed": seed, "max_length": 4096} if steps else {"seed": seed}
    with publish(out, step=step, name=out.name, params=params, inputs=inputs) as draft:
        if not steps:
            write_model(draft.path / "model", seed)
        if steps:
            numbers = [(n, 3.0 / n**0.5 + 0.1, 1e-3 / n) for n in range(1, steps + 1)]
            lines = [json.dumps({"step": n, "loss": loss, "learning_rate": rate}) for n, loss, rate in numbers]
            (draft.path / "log.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
            draft.count(rows_in=steps, rows_out=steps)
            checkpoints = [{"step": n, "loss": 3.0 / n, "score": n / 100, "tasks": {}} for n in (steps // 2, steps)]
            sets = {"meld-mer": {"n": 6, "headline": 0.625, "accuracy": 0.625}}
            whole = {"loss": 0.51, "score": 0.625, "tasks": {"mer": {"accuracy": 0.625}}, "sets": sets}
            write_json(draft.path / "validation.json", {**whole, "select": "score", "steps": checkpoints})
        (draft.path / "weights.txt").write_text(out.name, "utf-8")
        draft.facts = {"steps": steps, "selected_step": steps // 2}
    return out


def _scores(
    out: Path, sets: Sequence[EvaluationSet], inputs: dict[str, Source], validation: float | None = None
) -> Path:
    with publish(out, step="evaluate", params={"bootstrap": 50}, inputs=inputs) as draft:
        measured = [measure(one, _replies(one), {"majority": 0.25}, EVALUATE) for one in sets]
        for folder in ("predictions", "plots"):
            (draft.path / folder).mkdir()
        for part in measured:
            write_jsonl(
                draft.path / "predictions" / f"{part.test.name}.jsonl", prediction_rows(part.test, part.replies)
            )
            write_plots(part, draft.path / "plots")
        write_json(draft.path / "metrics.json", metrics(measured))
        write_json(draft.path / "published.json", [])
        if validation is not None:
            write_json(draft.path / "validation.json", {"score": validation})
    return out


def _replies(one: EvaluationSet) -> Replies:
    """Answer two records of three rightly, some unreadably, and be surer where right."""
    golds = [str(gold["answer"]) for gold in one.golds]
    texts = [gold if n % 3 else ("???" if n % 2 else golds[n - 1]) for n, gold in enumerate(golds)]
    if not one.answers:
        return Replies(texts)
    shares = np.full((len(texts), len(one.answers)), 0.4 / (len(one.answers) - 1))
    for n, gold in enumerate(golds):
        shares[n, one.answers.index(gold)] = 0.6
    controls = {"text-only": golds[::-1], "face-only": golds[1:] + golds[:1]}
    return Replies(texts, shares, controls)
