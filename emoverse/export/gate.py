"""Refuse to export a model whose scores are below what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emoverse.errors import UserError, did_you_mean


def require(metrics: Mapping[str, Any] | None, floor: Mapping[str, Mapping[str, float]]) -> None:
    """Raise UserError naming every score of ``metrics`` (evaluate's metrics.json) that is below its floor.

    ``floor`` maps a task to its metrics and the lowest value of each that passes; a score that is not there, or is not
    a number, does not.
    """
    place = "export.floor"
    if floor and metrics is None:
        raise UserError("there are no scores to hold against it", place=place, remedy="give --scores, or take it out")
    low = []
    for task, wanted in floor.items():
        known = {name: value for name, value in (metrics or {}).items() if name != "tests"}
        if task not in known:
            raise UserError(f"no scores of task {task!r}", place=place, remedy=did_you_mean(task, known))
        numbers = {key: v for key, v in known[task].items() if isinstance(v, int | float)}
        for metric, least in wanted.items():
            if metric not in numbers:
                raise UserError(f"{task} has no score {metric!r}", place=place, remedy=did_you_mean(metric, numbers))
            if not numbers[metric] >= least:  # so that NaN does not pass
                low.append(f"{task} {metric} is {numbers[metric]:.4f}, below {least:g}")
    if low:
        remedy = "train a better model, or lower export.floor in params.yaml"
        raise UserError("; ".join(low), place=place, remedy=remedy)
