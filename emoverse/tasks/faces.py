"""Say in words what action units show; the tables, their threshold and their sources are in ``action_units.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any


@cache
def tables() -> dict[str, Any]:
    """Return the data file: ``threshold``, ``phrases`` by unit, units by ``emotions``, a phrase for ``still`` faces."""
    return dict(json.loads(resources.files(__package__).joinpath("action_units.json").read_text("utf-8")))


def phrases(units: Mapping[str, float], emotion: str) -> tuple[str, ...]:
    """Return the phrases of the units that are active at the peak and belong to the emotion, by unit number.

    ``units`` maps ``"AU01"`` to its intensity, 0..5. A neutral face gives the one phrase for a still face.
    """
    data = tables()
    if not data["emotions"][emotion]:
        return (data["still"],)
    active = (unit for unit in sorted(data["emotions"][emotion]) if units.get(unit, 0.0) >= data["threshold"])
    return tuple(data["phrases"][unit] for unit in active)


@cache
def known() -> dict[str, str]:
    """Map every phrase in lower case to its proper form."""
    data = tables()
    return {phrase.lower(): phrase for phrase in (*data["phrases"].values(), data["still"])}
