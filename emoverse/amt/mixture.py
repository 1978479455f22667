"""Decide which tasks a clip serves in a stage, from a seeded hash of its id: no order, worker or hash seed matters."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Literal, TypeVar

from emoverse.config import AmtParams
from emoverse.corpora import corpora as all_corpora
from emoverse.errors import UserError, did_you_mean
from emoverse.tasks import Options, conditions, task, tasks


def draw(utterance_id: str, *key: str | int) -> float:
    """Return a number in [0, 1) that is a fixed, well-mixed function of the key and the id."""
    digest = hashlib.blake2b((_prefix(key) + utterance_id).encode("utf-8"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


@cache
def _prefix(key: tuple[str | int, ...]) -> str:
    return "".join(f"{part}\0" for part in key)


@dataclass(frozen=True)
class Stage:
    """One training stage's mixture.

    Attributes:
        weights: The share of eligible rows kept of each task, 0..1.
        per_clip: ``one``: a clip serves one task of the stage.
        caps: The largest number of rows of a task.
        limits: The draw that the rows of a capped task must stay below; computed from ``caps``.
    """

    name: str
    corpora: tuple[str, ...]
    weights: dict[str, float]
    seed: int
    per_clip: Literal["one", "several"]
    caps: dict[str, int] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)

    @cached_property
    def tasks(self) -> list[str]:
        """Return the tasks with a weight; those that keep every row come first."""
        weighted = ((weight < 1, name) for name, weight in self.weights.items() if weight > 0)
        return [name for _, name in sorted(weighted)]

    def draw(self, task_name: str, utterance_id: str) -> float:
        """Return the draw that decides whether a clip serves a task."""
        return draw(utterance_id, self.seed, self.name, task_name)

    def queue(self, utterance_id: str) -> list[str]:
        """Return the tasks to try on a clip, in order.

        ``several``: the tasks whose draw is below their weight. ``one``: all of them, in a random order in which a
        task comes first with odds proportional to its weight (an exponential race).
        """
        if self.per_clip == "one":
            arrival = {name: -math.log1p(-self.draw(name, utterance_id)) / self.weights[name] for name in self.tasks}
            return sorted(self.tasks, key=arrival.__getitem__)
        return [
            name for name in self.tasks if self.weights[name] >= 1 or self.draw(name, utterance_id) < self.weights[name]
        ]

    def is_over_limit(self, task_name: str, utterance_id: str) -> bool:
        """Return whether a cap leaves a clip out, because its draw is not among the smallest."""
        return task_name in self.limits and self.draw(task_name, utterance_id) >= self.limits[task_name]


Number = TypeVar("Number", int, float)


def _by_condition(named: Mapping[str, Number], params: AmtParams) -> dict[str, Number]:
    """Return weights or caps by the conditions that are trained."""
    options = Options(ecpe_gold_emotions=params.ecpe_gold_emotions)
    return {
        condition: value
        for name, value in named.items()
        for condition in conditions(name)
        if task(condition).is_trained(options)
    }


def stages(params: AmtParams, corpora: Sequence[str]) -> tuple[Stage, ...]:
    """Return the two stages; raise UserError for an unknown task or corpus, and for one whose folder is missing."""
    plan = []
    for name, section in (("stage1", params.stage1), ("stage2", params.stage2)):
        for task_name in (*section.tasks, *section.caps):
            if task_name not in tasks():
                hint = did_you_mean(task_name, tasks())
                raise UserError(f"unknown task {task_name!r}", place=f"amt.{name}.tasks", remedy=hint)
        for corpus in section.corpora:
            if corpus in corpora:
                continue
            if corpus not in all_corpora():
                hint = did_you_mean(corpus, all_corpora())
                raise UserError(f"unknown corpus {corpus!r}", place=f"amt.{name}.corpora", remedy=hint)
            remedy = f"add its folder to --validated, or remove it from amt.{name}.corpora"
            raise UserError(f"the mixture needs {corpus!r}, which is missing", place=f"amt.{name}", remedy=remedy)
        weights, caps = _by_condition(section.tasks, params), _by_condition(section.caps, params)
        plan.append(Stage(name, tuple(section.corpora), weights, params.seed, params.per_clip, caps))
    return tuple(plan)
