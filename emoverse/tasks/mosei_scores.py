"""The scores that papers on CMU-MOSEI report, where the gold has its numbers.

Sentiment (as MMSA computes it): Acc-2 and weighted F1 with zero (negative against not negative, all records) and
without it (negative against positive, zeros left out), Acc-7 (both rounded), MAE and Pearson's correlation. Emotions
(as CMU's SDK): each of six present (intensity above 0) or absent, by weighted accuracy, (TPR + TNR) / 2, and by
weighted F1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import numpy as np

from emoverse.tasks.base import Confusion, Gold, Numbers, Scorer, f1, ratio
from emoverse.tasks.replies import final_text, number_of

EMOTIONS: Final = ("happy", "sad", "anger", "surprise", "disgust", "fear")
"""CMU's order, which ``Utterance.intensities`` has."""
_LARGEST: Final = 1e6  # above any scale of sentiment; squares of larger ones spoil the sums of all records
_ZEROS: Final = (("with_zero", True), ("without_zero", False))
"""Both conventions for sentiment 0: whether it counts, as not negative."""


def value_of(reply: str) -> float | None:
    """Return the sentiment that a reply gives as a number, None for another reply or a number beyond any scale."""
    value = number_of(final_text(reply))
    return value if value is not None and abs(value) <= _LARGEST else None


class _Extended(Scorer):
    """A scorer with more columns: those of another scorer come first."""

    width: int

    def __init__(self, inner: Scorer) -> None:
        super().__init__(inner.golds)
        self._inner = inner

    def confusion(self, totals: Numbers) -> Confusion | None:
        """Return the other scorer's confusion matrix."""
        return self._inner.confusion(totals[..., : -self.width])


class ValueScorer(_Extended):
    """Add the scores of sentiments given as numbers; they appear only if a reply and its gold are numbers.

    Columns: gold values, pairs of numbers, |error|, equal when rounded, sums of p, t, pp, tt, pt (p predicted, t true),
    and two confusion matrices of four: true and false positives, false and true negatives. A reply that is no number
    counts as wrong, but for MAE and the correlation, which leave it out.
    """

    width = 17

    def __init__(self, inner: Scorer, label_of: Callable[[float], str]) -> None:
        super().__init__(inner)
        self._label_of = label_of

    def counts(self, replies: Sequence[str]) -> Numbers:
        """Return the other scorer's counts of the numbers' labels, and 17 more columns."""
        self.check(replies)
        values = [value_of(reply) for reply in replies]
        pairs = zip(replies, values, strict=True)
        labels = [reply if value is None else self._label_of(value) for reply, value in pairs]
        golds = (number_of(gold.get("value")) for gold in self.golds)
        more = [_value_counts(gold, value) for gold, value in zip(golds, values, strict=True)]
        return np.column_stack([self._inner.counts(labels), np.array(more, np.float64)])

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Return the other scorer's scores, and those of numbers if there are any."""
        scores = self._inner.scores(totals[..., : -self.width])
        golds, n, error, equal, p, t, pp, tt, pt, *cells = np.moveaxis(totals[..., -self.width :], -1, 0)
        if not n.any():
            return scores
        for (name, _), (tp, fp, fn, tn) in zip(_ZEROS, (cells[:4], cells[4:]), strict=True):
            scores[f"acc2_{name}"] = ratio(tp + tn, tp + fp + fn + tn)
            scores[f"f1_{name}"] = _weighted_f1(tp, fp, fn, tn)
        spread = np.sqrt(np.maximum(n * pp - p * p, 0.0) * np.maximum(n * tt - t * t, 0.0))
        return scores | {"acc7": ratio(equal, golds), "mae": ratio(error, n), "corr": ratio(n * pt - p * t, spread)}


def _value_counts(true: float | None, predicted: float | None) -> list[float]:
    if true is None:
        return [0.0] * ValueScorer.width
    if predicted is None:
        row = [1.0] + [0.0] * 8
    else:
        equal = np.round(np.clip(true, -3, 3)) == np.round(np.clip(predicted, -3, 3))
        products = (predicted, true, predicted * predicted, true * true, predicted * true)
        row = [1.0, 1.0, abs(predicted - true), float(equal), *products]
    for _, zero_counts in _ZEROS:
        cells = [0.0] * 4
        if true or zero_counts:
            positive = true > 0 or (true == 0 and zero_counts)
            hit = predicted is not None and (predicted > 0 or (predicted == 0 and zero_counts)) == positive
            cells[(0 if hit else 2) if positive else (3 if hit else 1)] = 1.0
        row += cells
    return row


class PresenceScorer(_Extended):
    """Add the scores of six emotions as present or absent, for records whose gold lists those ``present``."""

    width = 4 * len(EMOTIONS)

    def __init__(self, inner: Scorer, named: Callable[[str], Collection[str]]) -> None:
        super().__init__(inner)
        self._named = named

    def counts(self, replies: Sequence[str]) -> Numbers:
        """Return the other scorer's counts, and a confusion matrix of four for each emotion."""
        counts, more = self._inner.counts(replies), np.zeros((self.size, self.width))
        for row, gold, reply in zip(more, self.golds, replies, strict=True):
            if has_presence(gold):
                named = self._named(reply)
                for i, emotion in enumerate(EMOTIONS):
                    row[4 * i + (2 * (emotion in gold["present"]) + (emotion in named))] = 1.0
        return np.column_stack([counts, more])

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Return the other scorer's scores, each emotion's, and their means."""
        cells = totals[..., -self.width :].reshape(*totals.shape[:-1], len(EMOTIONS), 4)
        tn, fp, fn, tp = np.moveaxis(cells, -1, 0)
        accuracy = (ratio(tp, tp + fn) + ratio(tn, tn + fp)) / 2
        weighted = _weighted_f1(tp, fp, fn, tn)
        scores = self._inner.scores(totals[..., : -self.width])
        scores |= {"present_weighted_accuracy": accuracy.mean(-1), "present_weighted_f1": weighted.mean(-1)}
        for i, emotion in enumerate(EMOTIONS):
            scores[f"present_weighted_accuracy/{emotion}"] = accuracy[..., i]
            scores[f"present_weighted_f1/{emotion}"] = weighted[..., i]
        return scores


def has_presence(gold: Gold) -> bool:
    """Return whether a record says which emotions are present."""
    return isinstance(gold.get("present"), list)


def _weighted_f1(tp: Numbers, fp: Numbers, fn: Numbers, tn: Numbers) -> Numbers:
    """Return the F1 of both classes, weighted by their true counts."""
    positive, negative = f1(tp, tp + fp, tp + fn), f1(tn, tn + fn, tn + fp)
    return ratio(positive * (tp + fn) + negative * (tn + fp), tp + fp + fn + tn)
