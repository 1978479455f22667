"""Turn a test set's replies into the numbers, tables and plots that are kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emoverse.config import EvaluateParams
from emoverse.evaluation.intervals import expected_error, interval, reliability
from emoverse.evaluation.replies import Replies
from emoverse.evaluation.scoring import Scores, groups_of, main_names, pooled, scorable, score, stable
from emoverse.inference.test_sets import EvaluationSet
from emoverse.tasks import task as task_named
from emoverse.tasks.base import Confusion


@dataclass(frozen=True)
class Measured:
    """One test set, asked and scored: the model, each control, each baseline, and how sure the model was."""

    one: EvaluationSet
    found: Replies
    scores: Scores
    controls: dict[str, Scores]
    baselines: dict[str, float]
    reliability: list[dict[str, Any]]
    agreement: float | None

    @property
    def baseline(self) -> float:
        """Return the best trivial predictor's headline score."""
        return max(self.baselines.values(), default=0.0)


def measure(one: EvaluationSet, found: Replies, baselines: Mapping[str, float], params: EvaluateParams) -> Measured:
    """Score a test set's replies and controls on the same resamples; ``baselines`` are headline scores by name."""
    golds, groups = one.golds, groups_of(one.golds, one.ids)

    def scored(replies: Sequence[str]) -> Scores:
        return score(one.task, golds, replies, groups=groups, bootstrap=params.bootstrap, seed=params.seed)

    table: list[dict[str, Any]] = []
    if found.probabilities is not None:
        counted = scorable(one.task, task_named(one.task).scorer(golds), golds)
        right = np.array([reply == gold["answer"] for reply, gold in zip(found.replies, golds, strict=True)])
        shares = zip(found.replies, found.probabilities, strict=True)
        sure = np.array([_share(reply, one.answers, row) for reply, row in shares])
        table = reliability(sure[counted], right[counted])
    same = [reply == found.replies[i] for i, reply in found.generated.items()]
    return Measured(
        one,
        found,
        scored(found.replies),
        {name: scored(replies) for name, replies in found.controls.items()},
        dict(baselines),
        table,
        sum(same) / len(same) if same else None,
    )


def _share(reply: str, answers: Sequence[str], shares: NDArray[np.float64]) -> float:
    return float(shares[answers.index(reply)]) if reply in answers else 0.0


def metrics(all_sets: Sequence[Measured]) -> dict[str, Any]:
    """Return nested numbers for `dvc metrics`: each task over its corpora, then ``tests.<corpus>-<task>``."""
    tree: dict[str, Any] = {}
    for task in sorted({one.one.task for one in all_sets}):
        tree[task] = _task_numbers([one for one in all_sets if one.one.task == task])
    return {**tree, "tests": {one.one.name: _set_numbers(one) for one in all_sets}}


def _task_numbers(parts: Sequence[Measured]) -> dict[str, Any]:
    scores = [part.scores for part in parts]
    numbers: dict[str, Any] = {"n": sum(s.n for s in scores), "unparsable": sum(len(s.unparsable) for s in scores)}
    for name in _shared_names(scores):
        numbers[name] = stable(pooled(scores, name)[0])
    head = scores[0].headline
    low, high = interval(pooled(scores, head)[1])
    weights = np.array([s.scored for s in scores], np.float64)
    numbers |= {"low": stable(low), "high": stable(high)}
    numbers["baseline"] = stable(np.average([p.baseline for p in parts], weights=weights) if weights.sum() else 0.0)
    for name in parts[0].controls:
        numbers[_key(name)] = stable(pooled([part.controls[name] for part in parts], head)[0])
    return numbers


def _set_numbers(part: Measured) -> dict[str, Any]:
    scores = part.scores
    low, high = scores.interval()
    numbers: dict[str, Any] = {
        "n": scores.n,
        "scored": scores.scored,
        "headline": stable(scores.values[scores.headline]),
        "unparsable": len(scores.unparsable),
        **{name: stable(scores.values[name]) for name in main_names(scores)},
        "low": stable(low),
        "high": stable(high),
        "baseline": {name: stable(value) for name, value in part.baselines.items()},
        "detail": {name: stable(value) for name, value in scores.values.items() if "/" in name},
    }
    numbers |= {_key(name): stable(one.values[scores.headline]) for name, one in part.controls.items()}
    if part.reliability:
        numbers["calibration_error"] = stable(expected_error(part.reliability))
    if part.agreement is not None:
        numbers["agreement"] = stable(part.agreement)
        numbers["generated_unparsable"] = _unparsable(part)
    return numbers


def _unparsable(part: Measured) -> int:
    one = task_named(part.one.task)
    return sum(one.parse(reply, part.one.golds[i]) is None for i, reply in part.found.generated.items())


def _shared_names(scores: Sequence[Scores]) -> list[str]:
    shared = set.intersection(*(set(one.values) for one in scores))
    return [name for name in main_names(scores[0]) if name in shared]


def _key(control: str) -> str:
    return control.replace("-", "_")


def write_plots(part: Measured, folder: Path) -> None:
    """Write ``confusion-<test>.csv`` (one line a record), ``classes-<test>.csv`` and ``reliability-<test>.csv``."""
    name = part.one.name
    if part.scores.confusion is not None:
        write_csv(folder / f"confusion-{name}.csv", ("actual", "predicted"), _pairs(part.scores.confusion))
    each = [key for key in part.scores.values if key.startswith(("f1/", "official_f1/"))]
    if each:
        rows = ((key, part.scores.values[key], *part.scores.interval(key)) for key in each)
        write_csv(folder / f"classes-{name}.csv", ("class", "f1", "low", "high"), _stable_rows(rows))
    if part.reliability:
        keys = ("low", "high", "n", "confidence", "accuracy")
        table = ([row[key] for key in keys] for row in part.reliability)
        write_csv(folder / f"reliability-{name}.csv", keys, _stable_rows(table))


def _pairs(table: Confusion) -> Iterator[tuple[str, str]]:
    for actual, counts in zip(table.rows, table.matrix, strict=True):
        for predicted, count in zip(table.columns, counts, strict=True):
            yield from [(actual, predicted)] * int(count)


def _stable_rows(rows: Iterable[Iterable[Any]]) -> Iterable[list[Any]]:
    return ([stable(cell) if isinstance(cell, float) else cell for cell in row] for row in rows)


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV with Unix line ends."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, keys in the order given."""
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
