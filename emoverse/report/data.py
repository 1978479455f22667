"""Read the outputs of the data steps in the form that the page shows: corpora, quarantine, mixtures, audits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.manifest import Source
from emoverse.artifacts.tables import read_table
from emoverse.budget import Budget, stage_budgets
from emoverse.corpora import EMOTIONS, SPLITS

SHOWN: Final = 40  # quarantined rows listed of one corpus
STAGES: Final = ("stage1", "stage2")


@dataclass(frozen=True)
class Corpus:
    """One validated corpus: rows in and out, utterances by split and emotion, quarantined rows by reason."""

    name: str
    rows_in: int
    rows_out: int
    splits: dict[str, int]
    emotions: dict[str, int]
    reasons: dict[str, int]
    quarantined: list[dict[str, Any]]
    hidden: int
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Mixture:
    """The row counts of one file of AMT, by task and corpus: ``cells[task][corpus]``."""

    name: str
    cells: dict[str, dict[str, int]]
    total: int


@dataclass(frozen=True)
class Validation:
    """A stage's scores on its validation sets, which choose checkpoints; the test sets choose nothing.

    Attributes:
        select: ``train.select``: which checkpoint is published.
        selected: The step of the published checkpoint.
        loss: Nats a token of the answers.
        score: Mean of the sets' headline scores.
        sets: (records, headline score) of each whole validation set.
        steps: ``step``, ``loss`` and ``score`` of each checkpoint, on ``validation_rows`` of each set.
    """

    stage: str
    select: str
    selected: int
    loss: float
    score: float
    sets: dict[str, tuple[int, float]]
    steps: list[dict[str, Any]]


def corpus(source: Source) -> Corpus:
    """Summarise one output of validate."""
    splits: Counter[str] = Counter()
    emotions: Counter[str] = Counter()
    for row in read_table(source.path / "utterances.parquet", ["split", "emotion"]):
        splits[row["split"]] += 1
        emotions[row["emotion"] or "no label"] += 1
    reasons: Counter[str] = Counter()
    shown: list[dict[str, Any]] = []
    for row in read_table(source.path / "quarantine.parquet"):
        reasons[row["reason"]] += 1
        shown.append(row)
        if len(shown) > 2 * SHOWN:  # bounds the memory, whatever the size of the table
            shown = sorted(shown, key=_order)[:SHOWN]
    rows = source.manifest["rows"]
    summary = json.loads((source.path / "summary.json").read_text("utf-8"))
    return Corpus(
        name=str(source.manifest["name"]),
        rows_in=int(rows["in"]),
        rows_out=int(rows["out"]),
        splits=_ordered(splits, SPLITS),
        emotions=_ordered(emotions, EMOTIONS),
        reasons=dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))),
        quarantined=sorted(shown, key=_order)[:SHOWN],
        hidden=max(0, sum(reasons.values()) - SHOWN),
        facts=flatten(summary),
    )


def _ordered(counts: Counter[str], order: Sequence[str]) -> dict[str, int]:
    """Return the counts in this order, unknown names last."""
    return {name: counts[name] for name in (*order, *sorted(counts.keys() - set(order))) if name in counts}


def _order(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["reason"], row["source"], row["row_id"]


def budgets(amt: Path, base: Source, corpus: Source, stages: Mapping[str, Source]) -> dict[str, Budget]:
    """Count the tokens of each trained stage's rows against its ``max_length``.

    Args:
        amt: Output of build-amt.
        base: The base model.
        corpus: Any output of validate: all have the same number of frames per video.
        stages: Trained stage -> its output.
    """
    lengths = {name: int(source.manifest["params"]["max_length"]) for name, source in stages.items()}
    return stage_budgets(amt, base.path / "model", int(corpus.manifest["params"]["media"]["frames"]), lengths)


def validation(stages: Mapping[str, Source]) -> list[Validation]:
    """Return the validation scores of each stage that has some, from its ``validation.json``."""
    found = []
    for name, source in stages.items():
        path = source.path / "validation.json"
        if not path.is_file():
            continue
        results = json.loads(path.read_text("utf-8"))
        found.append(
            Validation(
                stage=name,
                select=results["select"],
                selected=int(source.manifest["facts"]["selected_step"]),
                loss=results["loss"],
                score=results["score"],
                sets={test: (result["n"], result["headline"]) for test, result in sorted(results["sets"].items())},
                steps=results["steps"],
            )
        )
    return found


def mixtures(amt: Path) -> list[Mixture]:
    """Count the rows of each stage and of the test files, by task and corpus."""
    stages = [_mixture(stage, [amt / f"{stage}.jsonl"]) for stage in STAGES if (amt / f"{stage}.jsonl").is_file()]
    return [*stages, _mixture("test", sorted((amt / "test").glob("*.jsonl")))]


def _mixture(name: str, paths: Sequence[Path]) -> Mixture:
    cells: dict[str, Counter[str]] = {}
    for path in paths:
        with path.open(encoding="utf-8") as handle:
            for line in handle:
                row = json.loads(line)
                cells.setdefault(row["task"], Counter())[row["corpus"]] += 1
    plain = {task: dict(sorted(cells[task].items())) for task in sorted(cells)}
    return Mixture(name, plain, sum(sum(counts.values()) for counts in plain.values()))


def audit(amt: Path) -> list[tuple[str, str]]:
    """Return ``audit.json`` as (dotted name, text) pairs, without its table of files, which is on AMT's own page."""
    tree = json.loads((amt / "audit.json").read_text("utf-8"))
    tree.pop("files", None)
    return flatten(tree)


def flatten(tree: Any, limit: int = 200) -> list[tuple[str, str]]:
    """Return a JSON tree as (dotted name, text) pairs, at most ``limit`` and then the number left out."""
    pairs = list(_walk(tree, ""))
    more = len(pairs) - limit
    return pairs if more <= 0 else [*pairs[:limit], ("...", f"{more} more in the file itself")]


def _walk(tree: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _walk(value, f"{name} › {key}" if name else str(key))
    elif isinstance(tree, list) and any(isinstance(value, dict | list) for value in tree):
        yield name, f"{len(tree):,} entries"
    elif isinstance(tree, list):
        yield name, ", ".join(_text(value) for value in tree[:12]) + (" ..." if len(tree) > 12 else "")
    else:
        yield name, _text(tree)


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
