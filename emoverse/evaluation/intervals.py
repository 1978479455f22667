"""Bootstrap intervals and calibration of scores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
BINS: Final = 10
_CELLS: Final = 1 << 23  # weights in memory at a time: 64 MB


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
