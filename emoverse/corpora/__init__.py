"""Registry of the corpora: every module of this package that has a ``CORPUS``."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from emoverse.corpora.base import Corpus
from emoverse.errors import UserError, did_you_mean


@cache
def corpora() -> dict[str, Corpus]:
    """Return all corpora by name, in order of name."""
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    known = [module.CORPUS for module in modules if hasattr(module, "CORPUS")]
    return {corpus.name: corpus for corpus in sorted(known, key=lambda corpus: corpus.name)}


def get_corpus(name: str) -> Corpus:
    """Return the corpus of this name; raise UserError that names the nearest one."""
    try:
        return corpora()[name]
    except KeyError:
        raise UserError(f"unknown corpus {name!r}", remedy=did_you_mean(name, corpora())) from None
