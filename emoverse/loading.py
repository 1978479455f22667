"""Load large libraries without the garbage collector searching what they make, again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Let the body import libraries, the collector at rest; it is as it was afterwards, also when the body raises.

    Great Expectations, transformers and ms-swift make half a million objects that stay. As their number grows the
    collector goes over all of them some eight times, a fifth of a step's start. Only imports belong in here: garbage
    of the work itself may hold much memory.
    """
    resting = not gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not resting:
            gc.enable()
