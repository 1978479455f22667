"""Compare how sure a model is with how often it is right."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
BINS: Final = 10


def posterior(likelihoods: Numbers) -> Numbers:
    """Turn log-likelihoods (n, k) into the probability of each answer given that one of them is given."""
    shifted = np.exp(likelihoods - likelihoods.max(axis=1, keepdims=True))
    result: Numbers = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def reliability(confidence: Numbers, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return ten equal bins of confidence: edges, records, mean confidence, accuracy; empty bins are left out."""
    index = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    rows = []
    for number in range(BINS):
        inside = index == number
        if inside.any():
            low, high = number / BINS, (number + 1) / BINS
            mean, share = float(confidence[inside].mean()), float(right[inside].mean())
            rows.append({"low": low, "high": high, "n": int(inside.sum()), "confidence": mean, "accuracy": share})
    return rows


def expected_error(table: list[dict[str, Any]]) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy, weighted by records."""
    total = sum(row["n"] for row in table)
    return sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in table) / total if total else 0.0
