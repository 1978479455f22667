"""Ask whether a clip's sentiment is positive or negative (multimodal sentiment analysis).

CMU-MOSEI's sentiment is a number in [-3, 3]. The authors do not say how they treat 0; their test files are named after
both conventions, so both are always scored: ``non_neg`` (0 counts as positive) and ``pos_neg`` (0 is not scored).
``zero_sentiment`` selects the one that is trained and that ``accuracy`` means, or makes 0 a class of its own.

A reply may be a number too. Then the scores that papers report are added, as MMSA computes them: Acc-2 and weighted F1
with zero (negative against not negative, all records) and without it (negative against positive, zeros left out), Acc-7
(both rounded), MAE and Pearson's correlation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from emoverse.corpora import Utterance
from emoverse.tasks import (
    Context,
    ExtendedScorer,
    Gold,
    LabelScorer,
    LabelTask,
    Numbers,
    Question,
    Scorer,
    Skipped,
    binary_weighted_f1,
    label_scores,
    ratio,
)
from emoverse.tasks.replies import final_text, label_for, number_of, word_of

_TWO: Final = ("Positive.", "Negative.")
_THREE: Final = ("Positive.", "Neutral.", "Negative.")
_ZERO: Final = "zero"
_SIGNS: Final = {"negative": -1, "neutral": 0, "positive": 1}
_LARGEST: Final = 1e6  # above any scale of sentiment; squares of larger ones spoil the sums of all records
_ZEROS: Final = (("with_zero", True), ("without_zero", False))
"""Both conventions for sentiment 0: whether it counts, as not negative."""
_UNLABELLED: Final = Skipped("no-sentiment-label")
_AT_ZERO: Final = Skipped("sentiment-zero")


def prompt(text: str, *, own_class: bool = False) -> str:
    """Return the authors' prompt, the transcript in double quotes; with three classes the list names all three."""
    options = "positive, neutral or negative" if own_class else "positive or negative"
    return (
        f'The person says: "{text}" <sentiment> '
        f"Please determine which sentiment label in the video represents: {options}."
    )


def sign(utterance: Utterance) -> int | None:
    """Return -1, 0 or 1 from the sentiment number, else from the polarity; None when the corpus has neither."""
    if utterance.sentiment is not None:
        return (utterance.sentiment > 0) - (utterance.sentiment < 0)
    return _SIGNS[utterance.polarity] if utterance.polarity else None


def value_of(reply: str) -> float | None:
    """Return the sentiment that a reply gives as a number, None for another reply or a number beyond any scale."""
    value = number_of(final_text(reply))
    return value if value is not None and abs(value) <= _LARGEST else None


@lru_cache(maxsize=256)
def _gold(answer: str, zero: bool, zeros: str, value: float | None = None) -> dict[str, Any]:
    """Return what all questions with this answer, and this sentiment if it is a number, have in common."""
    answers = list(_THREE if zeros == "own-class" else _TWO)
    gold = {"answer": answer, "answers": answers, "zero": zero, "zeros": zeros}
    return gold if value is None else {**gold, "value": value}


def _label(value: float, zeros: str) -> str:
    """Return the label of a sentiment given as a number; without a class or a side of its own, 0 is not positive."""
    if value == 0 and zeros == "own-class":
        return "Neutral."
    return "Positive." if value > 0 or (value == 0 and zeros == "positive") else "Negative."


class _SentimentAnalysis(LabelTask):
    name = "msa"
    title = "sentiment analysis"
    headline = "accuracy"
    rank = 1
    modality_dropout = True

    def question(self, context: Context) -> Question | Skipped:
        """Make the question of a labelled utterance; ``zero_sentiment`` decides what happens to sentiment 0."""
        utterance, zeros = context.utterance, context.options.zero_sentiment
        polarity = sign(utterance)
        if polarity is None:
            return _UNLABELLED
        if polarity == 0 and zeros == "drop" and utterance.sentiment is None:
            return _AT_ZERO  # a neutral polarity; "non-negative" is a convention for MOSEI's numbers only
        own_class = zeros == "own-class"
        right = "Negative." if polarity < 0 else "Neutral." if polarity == 0 and own_class else "Positive."
        text = prompt(context.transcript(utterance), own_class=own_class)
        gold = _gold(right, polarity == 0, zeros, utterance.sentiment)
        return Question(text, right, gold, polarity != 0 or zeros != "drop")

    def gold(self, answer: str, *, corpus: str, query: str = "") -> dict[str, Any]:
        """Return a published record's gold: of a number, or of a label, which cannot tell a 0 from a positive value."""
        value = number_of(answer)
        if value is not None:
            return dict(_gold("Negative." if value < 0 else "Positive.", value == 0, "drop", value))
        return dict(_gold(label_for(answer, _TWO), False, "drop"))

    def parse(self, reply: str, gold: Gold) -> str | None:
        """Return the label that the reply gives, in a word or as a number."""
        value = value_of(reply)
        return super().parse(reply, gold) if value is None else _label(value, gold["zeros"])

    def scorer(self, golds: Sequence[Gold]) -> Scorer:
        """Return the scorer of three classes, or of two with the zeros counted apart, and of numbers."""
        zeros = str(golds[0]["zeros"])
        inner = LabelScorer(golds) if zeros == "own-class" else _ZeroScorer(golds)
        return ValueScorer(inner, lambda value: _label(value, zeros))

    def default_corpus(self, answers: Iterable[str]) -> str:
        """Return mosei, the corpus whose sentiment the authors publish."""
        return "mosei"


class _ZeroScorer(LabelScorer):
    """Count positive, negative and zero records apart, so that both usual accuracies come from one set of counts.

    Columns: the (3, 3) matrix of LabelScorer, its exact matches, and the exact matches among zeros.
    """

    def __init__(self, golds: Sequence[Gold]) -> None:
        classes = [_ZERO if gold["zero"] else str(gold["answer"]) for gold in golds]
        super().__init__(golds, classes, (*_TWO, _ZERO))
        self._zeros_count = golds[0]["zeros"] == "positive"

    def counts(self, replies: Sequence[str]) -> Numbers:
        """Return an (n, 11) array."""
        counts = super().counts(replies)
        exact_at_zero = counts[:, -1] * (self._gold == len(_TWO))
        return np.column_stack([counts, exact_at_zero])

    def matrix(self, totals: Numbers) -> Numbers:
        """Return the (..., 3, 3) matrices: positive, negative, zero by positive, negative, unparsable."""
        return super().matrix(totals[..., :-1])

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Return the scores with zeros treated as configured, then accuracy, F1 and exact match both ways."""
        names = [word_of(label) for label in self.labels]
        matrix = self.matrix(totals)
        pos_neg = matrix[..., :2, :]
        non_neg = pos_neg.copy()
        non_neg[..., 0, :] += matrix[..., 2, :]
        exact, exact_at_zero = totals[..., -2], totals[..., -1]
        scores = label_scores(non_neg if self._zeros_count else pos_neg, names)
        for way, counted, hits in (("pos_neg", pos_neg, exact - exact_at_zero), ("non_neg", non_neg, exact)):
            both = label_scores(counted, names)
            scores[f"accuracy/{way}"] = both["accuracy"]
            scores[f"weighted_f1/{way}"] = both["weighted_f1"]
            scores[f"exact_match/{way}"] = ratio(hits, counted.sum((-1, -2)))
        scores["exact_match"] = scores["exact_match/non_neg" if self._zeros_count else "exact_match/pos_neg"]
        return scores


class ValueScorer(ExtendedScorer):
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
            scores[f"f1_{name}"] = binary_weighted_f1(tp, fp, fn, tn)
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


TASK = _SentimentAnalysis()
