"""Read the output of evaluate in the form that the page and the Kubeflow UI show."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from emoverse.tasks import FLAWS, UNPARSABLE, rank, tasks
from emoverse.tasks import task as task_named

CONTROLS: Final = ("text_only", "face_only")
_NOT_SCORES: Final = ("n", "scored", *FLAWS, "headline", "low", "high", "baseline", *CONTROLS)


@dataclass(frozen=True)
class Headline:
    """One task's score with its 95 % interval, the best trivial baseline, and the controls that were measured."""

    task: str
    title: str
    metric: str
    n: int
    flaws: dict[str, int]
    value: float
    low: float
    high: float
    baseline: float
    controls: dict[str, float]


@dataclass(frozen=True)
class TestSet:
    """One test set: all its numbers, and the tables behind its figures (empty where the task has none).

    ``confusion[i][j]`` counts records of gold ``labels[i]`` answered as ``columns[j]``.
    """

    name: str
    headline: Headline
    numbers: dict[str, float]
    baselines: dict[str, float]
    labels: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    classes: list[dict[str, Any]] = field(default_factory=list)
    reliability: list[dict[str, float]] = field(default_factory=list)


def headlines(scores: Path) -> list[Headline]:
    """Return each task's headline over all its test sets."""
    metrics = json.loads((scores / "metrics.json").read_text("utf-8"))
    return [_headline(task, metrics[task]) for task in sorted(metrics, key=rank) if task != "tests"]


def ablation_rows(whole: Path, variants: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return each model's headline of every task, with its interval: the whole model, its controls, then the variants.

    Args:
        whole: Output of evaluate, of the model with all tasks and stages.
        variants: Title of each ablation to its output of evaluate.

    Returns:
        ``{"title": ..., "tasks": {task: {"metric", "value", "low", "high", "n"}}}`` each; a control has only the tasks
        that it was measured on.
    """
    rows = [{"title": "whole model", "tasks": _ablated(whole)}]
    titles = {"text_only": "words only", "face_only": "face only"}
    rows += [{"title": titles[name], "tasks": _ablated(whole, name)} for name in CONTROLS]
    rows += [{"title": title, "tasks": _ablated(scores)} for title, scores in variants.items()]
    return [row for row in rows if row["tasks"]]


def _ablated(scores: Path, control: str = "") -> dict[str, dict[str, Any]]:
    metrics = json.loads((scores / "metrics.json").read_text("utf-8"))
    headlines: dict[str, dict[str, Any]] = {}
    for task in sorted(metrics.keys() - {"tests"}, key=rank):
        numbers, metric = metrics[task], task_named(task).headline
        keys = (control, f"{control}_low", f"{control}_high") if control else (metric, "low", "high")
        if all(key in numbers for key in keys):
            value, low, high = (float(numbers[key]) for key in keys)
            headlines[task] = {"metric": metric, "value": value, "low": low, "high": high, "n": int(numbers["n"])}
    return headlines


def test_sets(scores: Path) -> list[TestSet]:
    """Return every test set, a task's together."""
    tests = json.loads((scores / "metrics.json").read_text("utf-8"))["tests"]
    return [_test_set(scores, name, tests[name]) for name in sorted(tests, key=rank)]


def flat(scores: Path) -> dict[str, float]:
    """Return the headline scores as ``mer_accuracy: 0.61`` pairs, baselines and controls beside them."""
    pairs: dict[str, float] = {}
    for head in headlines(scores):
        others = {"low": head.low, "high": head.high, "baseline": head.baseline, **head.controls}
        pairs |= {f"{head.task}_{key}": value for key, value in {head.metric: head.value, **others}.items()}
    return pairs


def confusion_over(scores: Path, task: str = "") -> tuple[list[str], list[list[int]]]:
    """Return the labels and the square confusion matrix of a task over all its test sets; empty without the task.

    The default is the first task by rank (emotion recognition).
    """
    task = task or min(tasks(), key=rank)
    counts: Counter[tuple[str, str]] = Counter()
    labels: dict[str, None] = {}
    for path in sorted((scores / "plots").glob(f"confusion-*-{task}.csv")):
        labels |= dict.fromkeys(_answers(scores, path.stem.removeprefix("confusion-")))
        counts.update(_pairs(path))
    names = [*labels, *sorted({label for pair in counts for label in pair} - set(labels))]
    return names, [[counts[actual, predicted] for predicted in names] for actual in names]


def confusion_matrices(scores: Path) -> dict[str, tuple[list[str], list[list[int]]]]:
    """Return test set -> (labels, square confusion matrix) for each test set that has one."""
    matrices: dict[str, tuple[list[str], list[list[int]]]] = {}
    for test in test_sets(scores):
        names = list(dict.fromkeys([*test.labels, *test.columns]))
        counts = {(actual, predicted): test.confusion[i][j]
                  for i, actual in enumerate(test.labels) for j, predicted in enumerate(test.columns)}  # fmt: skip
        if names:
            matrix = [[counts.get((actual, predicted), 0) for predicted in names] for actual in names]
            matrices[test.name] = [name.rstrip(".") for name in names], matrix
    return matrices


def _headline(task: str, numbers: Mapping[str, Any]) -> Headline:
    metric, baseline = task_named(task).headline, numbers["baseline"]
    return Headline(
        task=task,
        title=task_named(task).title,
        metric=metric,
        n=int(numbers["n"]),
        flaws={flaw: int(numbers[flaw]) for flaw in FLAWS if numbers.get(flaw)},
        value=float(numbers[metric]),
        low=float(numbers["low"]),
        high=float(numbers["high"]),
        baseline=float(max(baseline.values(), default=0.0) if isinstance(baseline, dict) else baseline),
        controls={name: float(numbers[name]) for name in CONTROLS if name in numbers},
    )


def _test_set(scores: Path, name: str, numbers: Mapping[str, Any]) -> TestSet:
    task = name.rpartition("-")[2]
    plots = scores / "plots"
    counts = _pairs(plots / f"confusion-{name}.csv")
    labels = _answers(scores, name) if counts else []
    columns = labels + sorted({predicted for _, predicted in counts} - set(labels), key=lambda c: (c == UNPARSABLE, c))
    labels = labels + sorted({actual for actual, _ in counts} - set(labels))
    return TestSet(
        name=name,
        headline=_headline(task, numbers),
        numbers={k: float(v) for k, v in numbers.items() if k not in _NOT_SCORES and isinstance(v, int | float)},
        baselines={k: float(v) for k, v in numbers["baseline"].items()},
        labels=labels,
        columns=columns,
        confusion=[[counts[actual, predicted] for predicted in columns] for actual in labels],
        classes=_classes(plots / f"classes-{name}.csv"),
        reliability=[{k: float(v) for k, v in row.items()} for row in _rows(plots / f"reliability-{name}.csv")],
    )


def _classes(path: Path) -> list[dict[str, Any]]:
    """Read each class's F1; those of ECPE's official scorer are in ``all numbers`` only."""
    rows = ((row["class"].partition("/"), row) for row in _rows(path))
    return [{**row, "class": name} for (kind, _, name), row in rows if kind == "f1"]


def _pairs(path: Path) -> Counter[tuple[str, str]]:
    return Counter((row["actual"], row["predicted"]) for row in _rows(path))


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _answers(scores: Path, name: str) -> list[str]:
    """Return the allowed answers of a test set in the task's own order."""
    with (scores / "predictions" / f"{name}.jsonl").open(encoding="utf-8") as handle:
        return [str(answer) for answer in json.loads(next(handle))["gold"].get("answers") or ()]
