"""Find the corpora: every module of this package that has a ``read``."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from emoverse.corpora.base import Reader
from emoverse.errors import UserError, did_you_mean


@cache
def readers() -> dict[str, Reader]:
    """Return all readers by corpus name, in order of name."""
    found: dict[str, Reader] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda item: item.name):
        read = getattr(importlib.import_module(f"{__name__}.{module.name}"), "read", None)
        if read is not None:
            found[module.name] = read
    return found


def reader(name: str) -> Reader:
    """Return the function that reads this corpus's folder; raise UserError naming the nearest corpus."""
    try:
        return readers()[name]
    except KeyError:
        raise UserError(f"unknown corpus {name!r}", remedy=did_you_mean(name, readers())) from None
