"""Find the tasks: every module of this package that has a ``TASK``.

A module may also have ``CONDITIONS``: tasks that put the same question under other conditions. They are tested beside
the module's ``TASK``, each as a test set of its own.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from emoverse.errors import UserError, did_you_mean
from emoverse.tasks.base import Task


@cache
def tasks() -> dict[str, Task]:
    """Return all tasks by name, in order of name; their other conditions aside."""
    return {group[0].name: group[0] for group in _groups()}


def task(name: str) -> Task:
    """Return the task, or condition of a task, of this name; raise UserError naming the nearest one."""
    try:
        return _all()[name]
    except KeyError:
        raise UserError(f"unknown task {name!r}", remedy=did_you_mean(name, _all())) from None


def conditions(name: str) -> tuple[str, ...]:
    """Return the names of every condition of a task, the one named ``name`` among them; the task itself is first."""
    return next(names for group in _groups() if name in (names := tuple(one.name for one in group)))


@cache
def _groups() -> tuple[tuple[Task, ...], ...]:
    """Return each module's task and its other conditions, in order of the task's name."""
    found: list[tuple[Task, ...]] = []
    for item in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{item.name}")
        if hasattr(module, "TASK"):
            found.append((module.TASK, *getattr(module, "CONDITIONS", ())))
    return tuple(sorted(found, key=lambda group: group[0].name))


@cache
def _all() -> dict[str, Task]:
    return {one.name: one for group in _groups() for one in group}
