"""Score one predictor's replies to one task's records, with intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from emoverse.errors import UserError
from emoverse.evaluation.intervals import Numbers, group_sums, interval, resampled, seed_of
from emoverse.tasks import task as task_named
from emoverse.tasks.base import FLAWS, Confusion, Scorer

Golds = Sequence[Mapping[str, Any]]
WARN_ABOVE: Final = 0.05  # share of flawed replies
SHOWN: Final = 120  # characters of an example


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
