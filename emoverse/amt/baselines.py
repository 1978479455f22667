"""Score trivial predictors on the test files, as the baselines of every later score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from emoverse.tasks import conditions, task

_BATCH: Final = 4096
_GOLD, _GROUP = b',"gold":', b',"group":'
"""Before a row's last key, and before the last key of that; in a string the quotation marks would be escaped."""


def baselines(root: Path, trained: Mapping[tuple[str, str], Counter[str]]) -> dict[str, Any]:
    """Return ``{"meld-mer": {"records": n, "baselines": {"majority": {"reply": ..., "scores": {...}}}}}``.

    ``root`` holds ``test/*.jsonl``; ``trained`` counts train answers by (corpus, task), for the majority class. A test
    file without train rows of its corpus uses its own majority, which no predictor could know, and says so.
    """
    tables: dict[str, Any] = {}
    for path in sorted((root / "test").glob("*.jsonl")):
        corpus, _, name = path.stem.rpartition("-")
        answers = sum((trained.get((corpus, condition), Counter()) for condition in conditions(name)), Counter())
        tables[path.stem] = score_trivial(name, path, answers)
    return tables


def score_trivial(name: str, path: Path, trained: Counter[str]) -> dict[str, Any]:
    """Score a task's trivial predictors on one test file: each different gold once, as counts are additive."""
    definition, counted = task(name), _golds(path)
    if not trained:
        answers: Counter[str] = Counter()
        for blob, times in counted.items():
            answers[orjson.loads(blob)["answer"]] += times
    majority_from, seen = ("train", trained) if trained else ("test", answers)
    totals: dict[str, Any] = {}
    replies: dict[str, set[str]] = {}
    left = iter(counted.items())
    while batch := list(islice(left, _BATCH)):
        golds, weights = [orjson.loads(blob) for blob, _ in batch], np.array([count for _, count in batch], np.float64)
        scorer = definition.scorer(golds)
        for predictor, answered in definition.baselines(golds, seen).items():
            totals[predictor] = totals.get(predictor, 0.0) + weights @ scorer.counts(answered)
            kept = replies.setdefault(predictor, set())
            if len(kept) < 2:
                kept.update(answered)
    table = {}
    for predictor, total in totals.items():
        scores = {key: round(float(value), 6) for key, value in sorted(scorer.scores(total).items())}
        only = next(iter(replies[predictor])) if len(replies[predictor]) == 1 else None
        table[predictor] = {"reply": only, "scores": scores}
    return {
        "records": counted.total(),
        "headline": definition.headline,
        "majority_from": majority_from,
        "baselines": table,
    }


def _golds(path: Path) -> Counter[bytes]:
    """Count the different golds of a file, as JSON; which dialogue a record belongs to is no part of a baseline."""
    golds: Counter[bytes] = Counter()
    with path.open("rb") as handle:
        for line in handle:
            gold = line[line.rindex(_GOLD) + len(_GOLD) :]
            golds[gold[: gold.rindex(_GROUP)] + b"}"] += 1
    return golds
