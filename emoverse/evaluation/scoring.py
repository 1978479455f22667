"""Score one predictor's replies to one task's records, with bootstrap intervals and calibration."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from emoverse.errors import UserError
from emoverse.tasks import FLAWS, Confusion, Scorer
from emoverse.tasks import task as task_named

Golds = Sequence[Mapping[str, Any]]
WARN_ABOVE: Final = 0.05  # share of flawed replies
SHOWN: Final = 120  # characters of an example
Numbers = NDArray[np.float64]
BINS: Final = 10
_CELLS: Final = 1 << 23  # weights in memory at a time: 64 MB


@dataclass(frozen=True)
class Scores:
    """One predictor's scores on one test set.

    Attributes:
        n: Records asked.
        scored: Records that can earn the headline score (MSA leaves out sentiment 0 under ``drop``, the authors' ECPE
            formula records without a cause).
        headline: The name of the score that stands for the task.
        values: Scores by name.
        samples: The same on each bootstrap resample.
        flaws: Indices of the replies with each of ``FLAWS``.
        confusion: The confusion matrix, None for a task without one.
    """

    n: int
    scored: int
    headline: str
    values: dict[str, float]
    samples: dict[str, Numbers]
    flaws: dict[str, tuple[int, ...]]
    confusion: Confusion | None

    @property
    def unparsable(self) -> tuple[int, ...]:
        """Return the indices of replies that cannot be read; they count as wrong."""
        return self.flaws["unparsable"]

    def interval(self, name: str = "") -> tuple[float, float]:
        """Return the 95 % interval of a score, by default of the headline."""
        return interval(self.samples.get(name or self.headline, np.zeros(0)))


def score(
    task: str, golds: Golds, replies: Sequence[str], *, groups: Sequence[str], bootstrap: int, seed: int
) -> Scores:
    """Score n replies to n gold records.

    Args:
        task: Name of the task.
        golds: (n,) gold records.
        replies: (n,) replies.
        groups: (n,) dialogue or video of each record; groups are resampled whole.
        bootstrap: Number of resamples.
        seed: Seed of the resamples.

    Raises:
        UserError: The task is unknown, or a score is not a finite number.
        ValueError: The numbers of golds, replies and groups differ.
    """
    known = task_named(task)
    scorer = known.scorer(golds)
    sums = group_sums(scorer.counts(replies), groups)
    totals = sums.sum(0)
    values = {name: float(value) for name, value in scorer.scores(totals).items()}
    if bad := [name for name, value in values.items() if not math.isfinite(value)]:
        remedy = "look for numbers in the gold records or replies that are not finite"
        raise UserError(f"{bad[0]} is not a finite number", place=f"scores of {task}", remedy=remedy)
    flaws = [known.flaws(reply, gold) for reply, gold in zip(replies, golds, strict=True)]
    return Scores(
        n=len(golds),
        scored=int(scorable(task, scorer, golds).sum()),
        headline=known.headline,
        values=values,
        samples=scorer.scores(resampled(sums, bootstrap, seed_of(seed, groups))),
        flaws={name: tuple(i for i, names in enumerate(flaws) if name in names) for name in FLAWS},
        confusion=scorer.confusion(totals),
    )


def warnings_of(scores: Scores, names: Sequence[str], replies: Sequence[str]) -> list[str]:
    """Return a warning, with three examples, for each flaw that more than 5 % of the replies have."""
    warnings = []
    for flaw, indices in scores.flaws.items():
        if len(indices) > WARN_ABOVE * scores.n:
            examples = "; ".join(f"{names[i]}: {_shortened(replies[i])!r}" for i in indices[:3])
            warnings.append(f"{len(indices) / scores.n:.1%} of the replies are {flaw}, for example {examples}")
    return warnings


def _shortened(reply: str) -> str:
    return reply if len(reply) <= SHOWN else f"{reply[: SHOWN // 2]} ... {reply[-SHOWN // 2 :]}"


def scorable(task: str, scorer: Scorer, golds: Golds) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return (n,): whether a right reply to the record earns anything in the headline score."""
    right = scorer.counts([str(gold["answer"]) for gold in golds])
    return np.asarray(scorer.scores(right)[task_named(task).headline] > 0, np.bool_)


def baseline_headlines(task: str, golds: Golds, trained: Sequence[str] = ()) -> dict[str, float]:
    """Return the headline score of the task's trivial predictors by name.

    ``trained`` are the answers of its train rows; without them the most frequent gold answer is used, which no
    predictor could know.
    """
    known = task_named(task)
    scorer = known.scorer(golds)
    predictors = sorted(known.baselines(golds, Counter(trained)).items())
    return {name: float(scorer.scores(scorer.counts(replies).sum(0))[known.headline]) for name, replies in predictors}


def groups_of(golds: Golds, ids: Sequence[str]) -> list[str]:
    """Return each record's dialogue or video, or its own id if it belongs to none."""
    return [str(gold.get("group") or name) for gold, name in zip(golds, ids, strict=True)]


def pooled(parts: Sequence[Scores], name: str) -> tuple[float, Numbers]:
    """Return a score over several test sets, and its samples: the mean weighted by their scored records.

    For accuracy that is the accuracy of all records together, whatever their label sets.
    """
    weights = np.array([part.scored for part in parts], np.float64)
    if not weights.sum():
        return 0.0, np.zeros(0)
    value = float(weights @ np.array([part.values[name] for part in parts]) / weights.sum())
    return value, weights @ np.stack([part.samples[name] for part in parts]) / weights.sum()


def stable(value: float) -> float:
    """Round to six decimals, so that the same result is the same text; a value that is not finite becomes 0."""
    return round(float(value), 6) + 0.0 if math.isfinite(value) else 0.0


def main_names(scores: Scores) -> list[str]:
    """Return the names of the scores over all classes, in the task's order."""
    return [name for name in scores.values if "/" not in name and name != "unparsable"]


def group_sums(counts: Numbers, groups: Sequence[str]) -> Numbers:
    """Sum (n, k) counts over each group, giving (groups, k) in order of the groups' first record."""
    if len(counts) != len(groups):
        raise ValueError(f"{len(counts)} rows of counts for {len(groups)} groups")
    index_of: dict[str, int] = {}
    indices = np.array([index_of.setdefault(group, len(index_of)) for group in groups], np.int64)
    if len(index_of) == len(groups):
        return counts
    sums = np.zeros((len(index_of), counts.shape[1]))
    np.add.at(sums, indices, counts)
    return sums


def resampled(sums: Numbers, samples: int, seed: int | Sequence[int]) -> Numbers:
    """Return (samples, k): the totals of as many groups as there are, drawn with replacement.

    The same seed and number of groups draw the same groups, so two predictors are compared on the same resamples.
    """
    size = len(sums)
    rng = np.random.default_rng(seed)
    totals = np.empty((samples, sums.shape[1]))
    step = max(1, _CELLS // max(1, size))
    for start in range(0, samples, step):
        count = min(step, samples - start)
        weights = np.stack([np.bincount(rng.integers(0, size, size), minlength=size) for _ in range(count)])
        totals[start : start + count] = weights.astype(np.float64) @ sums
    return totals


def seed_of(seed: int, groups: Sequence[str]) -> list[int]:
    """Return a seed that differs between test sets, so that sets of equal size do not share their resamples.

    ``groups`` are the names of the records' groups: predictors of one test set get the same resamples.
    """
    digest = hashlib.blake2b("\0".join(dict.fromkeys(groups)).encode("utf-8", "surrogatepass"), digest_size=8)
    return [seed, int.from_bytes(digest.digest())]


def interval(values: Numbers) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of resampled scores, (nan, nan) without resamples."""
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def posterior(likelihoods: Numbers) -> Numbers:
    """Turn log-likelihoods (n, k) into the probability of each answer given that one of them is given."""
    shifted = np.exp(likelihoods - likelihoods.max(axis=1, keepdims=True))
    result: Numbers = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def reliability(confidence: Numbers, correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return ten equal bins of confidence: edges, records, mean confidence, accuracy; empty bins are left out."""
    index = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    rows = []
    for number in range(BINS):
        inside = index == number
        if inside.any():
            low, high = number / BINS, (number + 1) / BINS
            mean, accuracy = float(confidence[inside].mean()), float(correct[inside].mean())
            rows.append({"low": low, "high": high, "n": int(inside.sum()), "confidence": mean, "accuracy": accuracy})
    return rows


def expected_error(bins: list[dict[str, Any]]) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy, weighted by records."""
    total = sum(row["n"] for row in bins)
    return sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in bins) / total if total else 0.0
