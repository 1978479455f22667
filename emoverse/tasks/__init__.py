"""Find the tasks: every module of this package that has a ``TASK``."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from emoverse.errors import UserError, did_you_mean
from emoverse.tasks.base import Task


@cache
def tasks() -> dict[str, Task]:
    """Return all tasks by name, in order of name."""
    found: dict[str, Task] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda item: item.name):
        one = getattr(importlib.import_module(f"{__name__}.{module.name}"), "TASK", None)
        if one is not None:
            found[one.name] = one
    return dict(sorted(found.items()))


def task(name: str) -> Task:
    """Return the task of this name; raise UserError naming the nearest one."""
    try:
        return tasks()[name]
    except KeyError:
        raise UserError(f"unknown task {name!r}", remedy=did_you_mean(name, tasks())) from None
