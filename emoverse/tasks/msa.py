"""Ask whether a clip's sentiment is positive or negative (multimodal sentiment analysis).

CMU-MOSEI's sentiment is a number in [-3, 3]. The authors do not say how they treat 0; their test files are named for
both usual ways, so both are always scored: ``non_neg`` (0 counts as positive) and ``pos_neg`` (0 is not scored).
``zero_sentiment`` chooses the way that is trained and that ``accuracy`` stands for, or makes 0 a class of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np

from emoverse.corpora.base import Utterance
from emoverse.tasks.base import UNPARSABLE, Confusion, Gold, LeftOut, Numbers, Question, Scene, Scorer, majority, ratio
from emoverse.tasks.labels import LabelScorer, label_scores, parse_label, word_of

_TWO: Final = ("Positive.", "Negative.")
_THREE: Final = ("Positive.", "Neutral.", "Negative.")
_ZERO: Final = "zero"
_SIGNS: Final = {"negative": -1, "neutral": 0, "positive": 1}
_UNLABELLED: Final = LeftOut("no-sentiment-label")
_AT_ZERO: Final = LeftOut("sentiment-zero")


def prompt(text: str, *, own_class: bool = False) -> str:
    """Return the authors' prompt, words verbatim in double quotes; with three classes the list names all three."""
    known = "positive, neutral or negative" if own_class else "positive or negative"
    return (
        f'The person says: "{text}" <sentiment> '
        f"Please determine which sentiment label in the video represents: {known}."
    )


def sign(utterance: Utterance) -> int | None:
    """Return -1, 0 or 1 from the sentiment number, else from the polarity; None when the corpus has neither."""
    if utterance.sentiment is not None:
        return (utterance.sentiment > 0) - (utterance.sentiment < 0)
    return _SIGNS[utterance.polarity] if utterance.polarity else None


@lru_cache(maxsize=64)
def _gold(answer: str, zero: bool, way: str) -> dict[str, Any]:
    """Return what all questions with this answer have in common."""
    return {"answer": answer, "answers": list(_THREE if way == "own-class" else _TWO), "zero": zero, "zeros": way}


class _Msa:
    name = "msa"
    title = "sentiment analysis"
    headline = "accuracy"
    media: Literal["clip", "peak"] = "clip"
    shows: Literal["utterance", "dialogue"] = "utterance"

    def ask(self, scene: Scene) -> Question | LeftOut:
        """Make the question of a labelled utterance; sentiment 0 goes the way the options say."""
        one, way = scene.utterance, scene.options.zero_sentiment
        found = sign(one)
        if found is None:
            return _UNLABELLED
        if found == 0 and way == "drop" and one.sentiment is None:
            return _AT_ZERO  # a neutral polarity; "non-negative" is a custom of MOSEI's numbers only
        own_class = way == "own-class"
        right = "Negative." if found < 0 else "Neutral." if found == 0 and own_class else "Positive."
        text = prompt(scene.words(one), own_class=own_class)
        return Question(text, right, _gold(right, found == 0, way), found != 0 or way != "drop")

    def gold(self, answer: str, *, corpus: str, query: str = "") -> dict[str, Any]:
        """Return a published record's gold, which cannot tell a 0 from a positive value."""
        return dict(_gold(answer, False, "drop"))

    def parse(self, reply: str, gold: Gold) -> str | None:
        """Return the label the reply names."""
        return parse_label(reply, gold["answers"])

    def scorer(self, golds: Sequence[Gold]) -> Scorer:
        """Return the scorer of three classes, or of two with the zeros counted apart."""
        if golds[0]["zeros"] == "own-class":
            return LabelScorer(golds)
        return _ZeroScorer(golds)

    def baselines(self, golds: Sequence[Gold], trained: Counter[str]) -> dict[str, list[str]]:
        """Give the commonest sentiment."""
        return {"majority": [majority(golds, trained)] * len(golds)}


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
        found = super().counts(replies)
        at_zero = found[:, -1] * (self._gold == len(_TWO))
        return np.column_stack([found, at_zero])

    def matrix(self, totals: Numbers) -> Numbers:
        """Return the (..., 3, 3) matrices: positive, negative, zero by positive, negative, unparsable."""
        return super().matrix(totals[..., :-1])

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Return LabelScorer's scores the chosen way, then accuracy, F1 and exact match (the authors') both ways."""
        matrix = self.matrix(totals)
        pos_neg = matrix[..., :2, :]
        non_neg = pos_neg.copy()
        non_neg[..., 0, :] += matrix[..., 2, :]
        exact, at_zero = totals[..., -2], totals[..., -1]
        found = label_scores(non_neg if self._zeros_count else pos_neg, [word_of(label) for label in self.labels])
        for name, one, hits in (("pos_neg", pos_neg, exact - at_zero), ("non_neg", non_neg, exact)):
            both = label_scores(one, [word_of(label) for label in self.labels])
            found[f"accuracy/{name}"] = both["accuracy"]
            found[f"weighted_f1/{name}"] = both["weighted_f1"]
            found[f"exact_match/{name}"] = ratio(hits, one.sum((-1, -2)))
        found["exact_match"] = found["exact_match/non_neg" if self._zeros_count else "exact_match/pos_neg"]
        return found

    def confusion(self, totals: Numbers) -> Confusion | None:
        """Return gold by predicted counts, a row for sentiment 0 included."""
        return Confusion(self.rows, (*self.labels, UNPARSABLE), self.matrix(totals))


TASK = _Msa()
