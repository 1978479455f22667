"""Decide which tasks a clip serves in a stage, from a seeded hash of its id: no order, worker or hash seed matters."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from emoverse.corpora import readers
from emoverse.errors import UserError, did_you_mean
from emoverse.params import AmtParams
from emoverse.tasks import tasks


def draw(*key: str | int) -> float:
    """Return a number in [0, 1) that is a fixed, well-mixed function of the key."""
    digest = hashlib.blake2b("\0".join(map(str, key)).encode("utf-8"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


@dataclass(frozen=True)
class Stage:
    """One training stage's mixture. ``weights`` maps a task to the share of eligible rows kept, 0..1."""

    name: str
    corpora: tuple[str, ...]
    weights: dict[str, float]
    seed: int
    per_clip: Literal["one", "several"]

    def picks(self, utterance_id: str) -> tuple[str, ...]:
        """Return the tasks to ask about a clip, in the order to try them.

        ``several``: each task whose draw is below its weight. ``one``: all tasks in a random order, in which a task
        comes first with odds proportional to its weight (an exponential race); the first that gives a question is kept.
        """
        draws = {name: draw(self.seed, self.name, name, utterance_id) for name in sorted(self.weights)}
        if self.per_clip == "several":
            return tuple(name for name, value in draws.items() if value < self.weights[name])
        times = {name: -math.log1p(-value) / self.weights[name] for name, value in draws.items() if self.weights[name]}
        return tuple(sorted(times, key=lambda name: (times[name], name)))


def stages(params: AmtParams, corpora: Sequence[str]) -> tuple[Stage, ...]:
    """Return the two stages; raise UserError for a task or corpus that nobody knows, or whose folder was not given."""
    found = []
    for name, section in (("stage1", params.stage1), ("stage2", params.stage2)):
        for task in section.tasks:
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
        found.append(Stage(name, tuple(section.corpora), dict(section.tasks), params.seed, params.per_clip))
    return tuple(found)
