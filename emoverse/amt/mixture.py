"""Decide which tasks a clip serves in a stage, from a seeded hash of its id: no order, worker or hash seed matters."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final, Literal, TypeVar

from emoverse.corpora import readers
from emoverse.errors import UserError, did_you_mean
from emoverse.params import AmtParams
from emoverse.tasks import tasks


def draw(*key: str | int) -> float:
    """Return a number in [0, 1) that is a fixed, well-mixed function of the key."""
    *first, last = key
    return _draw(_begun(tuple(first)), str(last).encode("utf-8"))


@lru_cache(maxsize=256)
def _begun(key: tuple[str | int, ...]) -> hashlib.blake2b:
    """Return the hash of a key's beginning, to go on from."""
    return hashlib.blake2b("".join(f"{part}\0" for part in key).encode("utf-8"), digest_size=8)


def _draw(begun: hashlib.blake2b, last: bytes) -> float:
    state = begun.copy()
    state.update(last)
    return (int.from_bytes(state.digest(), "big") >> 11) * 2.0**-53


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

    def value(self, name: str, utterance_id: str) -> float:
        """Return the draw that decides whether a clip serves a task."""
        return draw(self.seed, self.name, name, utterance_id)

    def picks(self, utterance_id: str) -> tuple[str, ...]:
        """Return the tasks to ask about a clip, in the order to try them.

        ``several``: each task whose draw is below its weight. ``one``: all tasks in a random order, in which a task
        comes first with odds proportional to its weight (an exponential race); the first that gives a question is kept.
        """
        several = self.per_clip == "several"
        if several and not self._drawn:
            return self._whole
        last = utterance_id.encode("utf-8")
        draws = [(name, weight, _draw(begun, last)) for name, weight, begun in self._drawn]
        if several:
            return self._whole + tuple(name for name, weight, value in draws if value < weight)
        return tuple(name for _, name in sorted((-math.log1p(-value) / weight, name) for name, weight, value in draws))

    @cached_property
    def asked(self) -> int:
        """Return how many tasks have a weight."""
        return sum(weight > 0 for weight in self.weights.values())

    @cached_property
    def _whole(self) -> tuple[str, ...]:
        """Return the tasks that keep every row: nothing to draw, where a clip may serve several."""
        return tuple(name for name, weight in sorted(self.weights.items()) if weight >= 1)

    @cached_property
    def _drawn(self) -> tuple[tuple[str, float, hashlib.blake2b], ...]:
        """Return (task, weight, begun hash) of the tasks to draw for."""
        return tuple(
            (name, weight, _begun((self.seed, self.name, name)))
            for name, weight in sorted(self.weights.items())
            if weight > 0 and (weight < 1 or self.per_clip == "one")
        )


_ECPE: Final = {True: ("ecpe",), False: ("ecpe_semeval",), "both": ("ecpe", "ecpe_semeval")}
"""The conditions of ECPE that ``amt.ecpe_gold_emotions`` trains; test sets are written for all of them."""
Number = TypeVar("Number", int, float)


def _by_condition(named: Mapping[str, Number], params: AmtParams) -> dict[str, Number]:
    """Return weights or caps by the conditions that are trained."""
    chosen = {"ecpe": _ECPE[params.ecpe_gold_emotions]}
    return {one: value for name, value in named.items() for one in chosen.get(name, (name,))}


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
