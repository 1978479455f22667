"""Say how sure a score is: resample whole groups of records, as matrix products over additive counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
_CELLS: Final = 1 << 23  # weights held at a time: 64 MB


def group_sums(counts: Numbers, groups: Sequence[str]) -> Numbers:
    """Sum (n, k) counts over each group, giving (groups, k) in order of the groups' first record."""
    if len(counts) != len(groups):
        raise ValueError(f"{len(counts)} rows of counts for {len(groups)} groups")
    place: dict[str, int] = {}
    where = np.array([place.setdefault(group, len(place)) for group in groups], np.int64)
    if len(place) == len(groups):
        return counts
    sums = np.zeros((len(place), counts.shape[1]))
    np.add.at(sums, where, counts)
    return sums


def resampled(sums: Numbers, samples: int, seed: int) -> Numbers:
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


def interval(values: Numbers) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of resampled scores, (nan, nan) where nothing was resampled."""
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
