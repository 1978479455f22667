"""Turn a test set's replies into the numbers, tables and plots that are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emoverse.artifacts.tables import write_csv
from emoverse.config import EvaluateParams
from emoverse.evaluation.intervals import expected_error, interval, reliability
from emoverse.evaluation.replies import Replies
from emoverse.evaluation.scoring import Scores, groups_of, main_names, pooled, scorable, score, stable
from emoverse.inference.test_sets import EvaluationSet
from emoverse.tasks import task as task_named
from emoverse.tasks.base import FLAWS, Confusion


@dataclass(frozen=True)
class Measured:
    """One scored test set: the model, each control, each baseline, and the model's calibration."""

    test: EvaluationSet
    replies: Replies
    scores: Scores
    controls: dict[str, Scores]
    baselines: dict[str, float]
    reliability: list[dict[str, Any]]
    agreement: float | None

    @property
    def baseline(self) -> float:
        """Return the best trivial predictor's headline score."""
        return max(self.baselines.values(), default=0.0)


def measure(test: EvaluationSet, replies: Replies, baselines: Mapping[str, float], params: EvaluateParams) -> Measured:
    """Score a test set's replies and controls on the same resamples.

    Args:
        test: The test set.
        replies: The model's replies to it, and to its controls.
        baselines: Headline score of each trivial predictor by name.
        params: Section ``evaluate``.
    """
    golds, groups = test.golds, groups_of(test.golds, test.ids)

    def scored(texts: Sequence[str]) -> Scores:
        return score(test.task, golds, texts, groups=groups, bootstrap=params.bootstrap, seed=params.seed)

    bins: list[dict[str, Any]] = []
    if replies.probabilities is not None:
        counted = scorable(test.task, task_named(test.task).scorer(golds), golds)
        correct = np.array([reply == gold["answer"] for reply, gold in zip(replies.replies, golds, strict=True)])
        pairs = zip(replies.replies, replies.probabilities, strict=True)
        confidence = np.array([_probability(reply, test.answers, row) for reply, row in pairs])
        bins = reliability(confidence[counted], correct[counted])
    same = [reply == replies.replies[i] for i, reply in replies.generated.items()]
    return Measured(
        test,
        replies,
        scored(replies.replies),
        {name: scored(texts) for name, texts in replies.controls.items()},
        dict(baselines),
        bins,
        sum(same) / len(same) if same else None,
    )


def _probability(reply: str, answers: Sequence[str], row: NDArray[np.float64]) -> float:
    return float(row[answers.index(reply)]) if reply in answers else 0.0


def metrics(all_sets: Sequence[Measured]) -> dict[str, Any]:
    """Return nested numbers for `dvc metrics`: each task over its corpora, then ``tests.<corpus>-<task>``."""
    tree: dict[str, Any] = {}
    for task in sorted({part.test.task for part in all_sets}):
        tree[task] = _task_numbers([part for part in all_sets if part.test.task == task])
    return {**tree, "tests": {part.test.name: _set_numbers(part) for part in all_sets}}


def _task_numbers(parts: Sequence[Measured]) -> dict[str, Any]:
    scores = [part.scores for part in parts]
    numbers: dict[str, Any] = {"n": sum(s.n for s in scores)}
    numbers |= {flaw: sum(len(s.flaws[flaw]) for s in scores) for flaw in FLAWS}
    for name in _shared_names(scores):
        numbers[name] = stable(pooled(scores, name)[0])
    head = scores[0].headline
    low, high = interval(pooled(scores, head)[1])
    weights = np.array([s.scored for s in scores], np.float64)
    numbers |= {"low": stable(low), "high": stable(high)}
    numbers["baseline"] = stable(np.average([p.baseline for p in parts], weights=weights) if weights.sum() else 0.0)
    for name in parts[0].controls:
        value, samples = pooled([part.controls[name] for part in parts], head)
        low, high = interval(samples)
        numbers |= {_key(name): stable(value), f"{_key(name)}_low": stable(low), f"{_key(name)}_high": stable(high)}
    return numbers


def _set_numbers(part: Measured) -> dict[str, Any]:
    scores = part.scores
    low, high = scores.interval()
    numbers: dict[str, Any] = {
        "n": scores.n,
        "scored": scores.scored,
        "headline": stable(scores.values[scores.headline]),
        **{flaw: len(indices) for flaw, indices in scores.flaws.items()},
        **{name: stable(scores.values[name]) for name in main_names(scores)},
        "low": stable(low),
        "high": stable(high),
        "baseline": {name: stable(value) for name, value in part.baselines.items()},
        "detail": {name: stable(value) for name, value in scores.values.items() if "/" in name},
    }
    numbers |= {_key(name): stable(control.values[scores.headline]) for name, control in part.controls.items()}
    if part.reliability:
        numbers["calibration_error"] = stable(expected_error(part.reliability))
    if part.agreement is not None:
        numbers["agreement"] = stable(part.agreement)
        parse, golds = task_named(part.test.task).parse, part.test.golds
        numbers["generated_unparsable"] = sum(parse(t, golds[i]) is None for i, t in part.replies.generated.items())
    return numbers


def _shared_names(scores: Sequence[Scores]) -> list[str]:
    shared = set.intersection(*(set(part.values) for part in scores))
    return [name for name in main_names(scores[0]) if name in shared]


def _key(control: str) -> str:
    return control.replace("-", "_")


def write_plots(part: Measured, folder: Path) -> None:
    """Write ``confusion-<test>.csv`` (one line per record), ``classes-<test>.csv`` and ``reliability-<test>.csv``."""
    name = part.test.name
    if part.scores.confusion is not None:
        write_csv(folder / f"confusion-{name}.csv", ("actual", "predicted"), _pairs(part.scores.confusion))
    each = [key for key in part.scores.values if key.startswith(("f1/", "official_f1/"))]
    if each:
        rows = ((key, part.scores.values[key], *part.scores.interval(key)) for key in each)
        write_csv(folder / f"classes-{name}.csv", ("class", "f1", "low", "high"), _stable_rows(rows))
    if part.reliability:
        keys = ("low", "high", "n", "confidence", "accuracy")
        cells = ([row[key] for key in keys] for row in part.reliability)
        write_csv(folder / f"reliability-{name}.csv", keys, _stable_rows(cells))


def _pairs(table: Confusion) -> Iterator[tuple[str, str]]:
    for actual, counts in zip(table.rows, table.matrix, strict=True):
        for predicted, count in zip(table.columns, counts, strict=True):
            yield from [(actual, predicted)] * int(count)


def _stable_rows(rows: Iterable[Iterable[Any]]) -> Iterable[list[Any]]:
    return ([stable(cell) if isinstance(cell, float) else cell for cell in row] for row in rows)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, keys in their order."""
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
