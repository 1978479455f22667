"""Read and score answers that are one label out of a closed list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emoverse.tasks import UNPARSABLE, Confusion, Gold, Numbers, Scorer, Task, f1, ratio
from emoverse.tasks.replies import read_label, word_of


def parse_label(reply: str, labels: Sequence[str]) -> str | None:
    """Return the label that a reply gives, None if it gives none; see ``replies.read_label``."""
    return read_label(reply, tuple(labels)).label


class LabelTask(Task):
    """A task whose answer is one label of a closed list."""

    def parse(self, reply: str, gold: Gold) -> str | None:
        """Return the label that the reply gives."""
        return parse_label(reply, gold["answers"])

    def flaws(self, reply: str, gold: Gold) -> set[str]:
        """Return the flaws of every task, and ``ambiguous`` for a reply that gives several labels."""
        ambiguous = read_label(reply, tuple(gold["answers"])).ambiguous
        return super().flaws(reply, gold) | ({"ambiguous"} if ambiguous else set())


class LabelScorer(Scorer):
    """Count a confusion matrix of g gold classes by p labels and ``unparsable``, and how many replies are exact.

    ``classes`` are the gold classes (n, one per record); by default a record's class is its answer. Columns of the
    counts: the flattened (g, p + 1) matrix, then one for replies that equal the answer exactly.
    """

    def __init__(self, golds: Sequence[Gold], classes: Sequence[str] | None = None, rows: Sequence[str] = ()) -> None:
        super().__init__(golds)
        self.labels: tuple[str, ...] = tuple(golds[0]["answers"])
        self.rows = tuple(rows) or self.labels
        self.answers = [str(gold["answer"]) for gold in golds]
        if any(tuple(gold["answers"]) != self.labels for gold in golds):
            raise ValueError("records with different label sets cannot be scored together")
        index = {name: i for i, name in enumerate(self.rows)}
        self._gold = np.array([index[name] for name in (classes or self.answers)], dtype=np.int64)

    def counts(self, replies: Sequence[str]) -> Numbers:
        """Return an (n, g * (p + 1) + 1) array with at most two ones in each row."""
        self.check(replies)
        index: dict[str | None, int] = {label: i for i, label in enumerate(self.labels)}
        index[None] = width = len(self.labels)
        predicted = np.array([index[parse_label(reply, self.labels)] for reply in replies], dtype=np.int64)
        counts = np.zeros((self.size, len(self.rows) * (width + 1) + 1))
        counts[np.arange(self.size), self._gold * (width + 1) + predicted] = 1.0
        counts[:, -1] = [reply == answer for reply, answer in zip(replies, self.answers, strict=True)]
        return counts

    def matrix(self, totals: Numbers) -> Numbers:
        """Return the confusion matrices (..., g, p + 1) of summed counts."""
        return totals[..., :-1].reshape(*totals.shape[:-1], len(self.rows), len(self.labels) + 1)

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Return ``label_scores`` and the share of replies that equal the answer exactly."""
        matrix = self.matrix(totals)
        scores = label_scores(matrix, [word_of(label) for label in self.labels])
        scores["exact_match"] = ratio(totals[..., -1], matrix.sum((-1, -2)))
        return scores

    def confusion(self, totals: Numbers) -> Confusion | None:
        """Return gold by predicted counts."""
        return Confusion(self.rows, (*self.labels, UNPARSABLE), self.matrix(totals))


def label_scores(matrix: Numbers, names: Sequence[str]) -> dict[str, Numbers]:
    """Score confusion matrices (..., p, p + 1), as scikit-learn does with ``labels`` given and ``zero_division=0``.

    Macro F1 is over all p labels, absent ones included; weighted F1 weights by gold counts.
    """
    square = matrix[..., :-1]
    hits = np.diagonal(square, axis1=-2, axis2=-1)
    gold, predicted, total = matrix.sum(-1), square.sum(-2), matrix.sum((-1, -2))
    each = f1(hits, predicted, gold)
    scores = {
        "accuracy": ratio(hits.sum(-1), total),
        "weighted_f1": ratio((each * gold).sum(-1), total),
        "macro_f1": each.mean(-1),
        "unparsable": ratio(matrix[..., -1].sum(-1), total),
    }
    precision, recall = ratio(hits, predicted), ratio(hits, gold)
    for i, name in enumerate(names):
        scores[f"precision/{name}"] = precision[..., i]
        scores[f"recall/{name}"] = recall[..., i]
        scores[f"f1/{name}"] = each[..., i]
    return scores
