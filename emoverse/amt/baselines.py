"""Score trivial predictors on the test files, so that every later score has a floor beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from emoverse.tasks import conditions, task
from emoverse.tasks.base import Gold

_BATCH: Final = 4096


def baselines(root: Path, trained: Mapping[tuple[str, str], Counter[str]]) -> dict[str, Any]:
    """Return ``{"meld-mer": {"records": n, "baselines": {"majority": {"reply": ..., "scores": {...}}}}}``.

    ``root`` holds ``test/*.jsonl``; ``trained`` counts train answers by (corpus, task), for the majority class. A test
    file without train rows of its corpus uses its own majority, which no predictor could know, and says so.
    """
    found: dict[str, Any] = {}
    for path in sorted((root / "test").glob("*.jsonl")):
        corpus, _, name = path.stem.rpartition("-")
        answers = sum((trained.get((corpus, one), Counter()) for one in conditions(name)), Counter())
        found[path.stem] = score_trivial(name, path, answers)
    return found


def score_trivial(name: str, path: Path, trained: Counter[str]) -> dict[str, Any]:
    """Score a task's trivial predictors on one test file, in batches: counts are additive."""
    one, majority_from = task(name), "train" if trained else "test"
    if not trained:
        trained = Counter(str(gold["answer"]) for batch in _golds(path) for gold in batch)
    totals: dict[str, Any] = {}
    replies: dict[str, set[str]] = {}
    records, scorer = 0, None
    for golds in _golds(path):
        scorer = one.scorer(golds)
        records += len(golds)
        for predictor, said in one.baselines(golds, trained).items():
            totals[predictor] = totals.get(predictor, 0.0) + scorer.counts(said).sum(0)
            kept = replies.setdefault(predictor, set())
            if len(kept) < 2:
                kept.update(said)
    assert scorer is not None  # a test file has rows
    table = {}
    for predictor, total in totals.items():
        scores = {key: round(float(value), 6) for key, value in sorted(scorer.scores(total).items())}
        only = next(iter(replies[predictor])) if len(replies[predictor]) == 1 else None
        table[predictor] = {"reply": only, "scores": scores}
    return {"records": records, "headline": one.headline, "majority_from": majority_from, "baselines": table}


def _golds(path: Path) -> Iterator[list[Gold]]:
    held: list[Gold] = []
    with path.open("rb") as handle:
        for line in handle:
            held.append(orjson.loads(line)["gold"])
            if len(held) == _BATCH:
                yield held
                held = []
    if held:
        yield held
