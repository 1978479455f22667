"""Registry of the tasks: every module of this package that has a ``TASK``.

A module may also have ``CONDITIONS``: tasks that put the same question under other conditions. They are tested beside
the module's ``TASK``, each with a test set of its own.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from emoverse.errors import UserError, did_you_mean
from emoverse.tasks.base import Task


@cache
def tasks() -> dict[str, Task]:
    """Return all tasks by name, in order of name, without their other conditions."""
    return {group[0].name: group[0] for group in _groups()}


def task(name: str) -> Task:
    """Return the task, or condition of a task, of this name; raise UserError naming the nearest one."""
    try:
        return _all()[name]
    except KeyError:
        raise UserError(f"unknown task {name!r}", remedy=did_you_mean(name, _all())) from None


def conditions(name: str) -> tuple[str, ...]:
    """Return the names of every condition of a task, ``name`` among them; the task itself is first."""
    groups = (tuple(condition.name for condition in group) for group in _groups())
    return next(names for names in groups if name in names)


def rank(name: str) -> tuple[int, str]:
    """Return a sort key that orders tasks and test sets (``meld-mer``) for people."""
    last = name.rpartition("-")[2]
    return (_all()[last].rank if last in _all() else Task.rank), name


@cache
def _groups() -> tuple[tuple[Task, ...], ...]:
    """Return each module's task and its other conditions, in order of the task's name."""
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    groups = [(module.TASK, *getattr(module, "CONDITIONS", ())) for module in modules if hasattr(module, "TASK")]
    return tuple(sorted(groups, key=lambda group: group[0].name))


@cache
def _all() -> dict[str, Task]:
    return {condition.name: condition for group in _groups() for condition in group}
