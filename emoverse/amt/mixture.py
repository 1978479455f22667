"""Decide which tasks a clip serves in a stage, from a seeded hash of its id: no order, worker or hash seed matters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from emoverse.config import AmtParams
from emoverse.corpora import readers
from emoverse.errors import UserError, did_you_mean
from emoverse.tasks import conditions, tasks
from emoverse.tasks import task as task_named
from emoverse.tasks.base import Options


def draws(ids: Sequence[str], *key: str | int) -> NDArray[np.float64]:
    """Return for each id a number in [0, 1) that is a fixed, well-mixed function of the key and the id."""
    begun = hashlib.blake2b("".join(f"{part}\0" for part in key).encode("utf-8"), digest_size=8)
    digests = []
    for one in ids:
        state = begun.copy()
        state.update(one.encode())
        digests.append(state.digest())
    return (np.frombuffer(b"".join(digests), dtype=">u8") >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class Stage:
    """One training stage's mixture. ``weights`` maps a task to the share of eligible rows kept, 0..1.

    ``caps`` maps a task to the most rows it may have; ``limits``, found from them, to a draw its rows stay below.
    """

    name: str
    corpora: tuple[str, ...]
    weights: dict[str, float]
    seed: int
    per_clip: Literal["one", "several"]
    caps: dict[str, int] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)

    @property
    def asked(self) -> int:
        """Return how many tasks have a weight."""
        return sum(weight > 0 for weight in self.weights.values())

    def values(self, name: str, ids: Sequence[str]) -> NDArray[np.float64]:
        """Return the draws that decide whether clips serve a task."""
        return draws(ids, self.seed, self.name, name)

    def queue(self, ids: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Return for each task when it is tried on each clip, infinity for never.

        ``several``: at once, where the clip's draw is below the weight. ``one``: in a random order, in which a task
        comes first with odds proportional to its weight (an exponential race).
        """
        found: dict[str, NDArray[np.float64]] = {}
        # Tasks that keep every row come first: nothing to draw, where a clip may serve several.
        for name, weight in sorted(self.weights.items(), key=lambda item: (item[1] < 1, item[0])):
            if weight <= 0:
                continue
            if self.per_clip == "one":
                found[name] = -np.log1p(-self.values(name, ids)) / weight
            elif weight >= 1:
                found[name] = np.zeros(len(ids))
            else:
                found[name] = np.where(self.values(name, ids) < weight, 0.0, np.inf)
        return found


Masks = dict[str, NDArray[np.bool_]]


def served(
    queue: Mapping[str, NDArray[np.float64]], fits: Masks, per_clip: Literal["one", "several"]
) -> tuple[Masks, Masks]:
    """Return which clips serve which task, and on which the task was tried.

    ``fits`` says where a task has a question that may be used. ``one``: the first that fits is kept, and what comes
    after it in the queue is not tried.
    """
    if per_clip == "several":
        tried = {name: np.isfinite(when) for name, when in queue.items()}
        return {name: fits[name] & tried[name] for name in queue}, tried
    when = np.stack([np.where(fits[name], queue[name], np.inf) for name in queue])
    first, best = when.argmin(0), when.min(0)
    kept = {name: (first == i) & np.isfinite(best) for i, name in enumerate(queue)}
    return kept, {name: kept[name] | (queue[name] < best) for name in queue}


Number = TypeVar("Number", int, float)


def _by_condition(named: Mapping[str, Number], params: AmtParams) -> dict[str, Number]:
    """Return weights or caps by the conditions that are trained."""
    options = Options(ecpe_gold_emotions=params.ecpe_gold_emotions)
    return {
        condition: value
        for name, value in named.items()
        for condition in conditions(name)
        if task_named(condition).is_trained(options)
    }


def stages(params: AmtParams, corpora: Sequence[str]) -> tuple[Stage, ...]:
    """Return the two stages; raise UserError for a task or corpus that nobody knows, or whose folder was not given."""
    found = []
    for name, section in (("stage1", params.stage1), ("stage2", params.stage2)):
        for task in (*section.tasks, *section.caps):
            if task not in tasks():
                raise UserError(f"unknown task {task!r}", place=f"amt.{name}.tasks", remedy=did_you_mean(task, tasks()))
        for corpus in section.corpora:
            if corpus in corpora:
                continue
            if corpus not in readers():
                hint = did_you_mean(corpus, readers())
                raise UserError(f"unknown corpus {corpus!r}", place=f"amt.{name}.corpora", remedy=hint)
            remedy = f"give --validated its folder too, or remove it from amt.{name}.corpora"
            raise UserError(f"the mixture wants {corpus!r}, which was not given", place=f"amt.{name}", remedy=remedy)
        weights, caps = _by_condition(section.tasks, params), _by_condition(section.caps, params)
        found.append(Stage(name, tuple(section.corpora), weights, params.seed, params.per_clip, caps))
    return tuple(found)
