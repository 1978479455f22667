"""Show the progress of long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LINE_SECONDS: Final = 30.0  # between two lines of a log
Advance = Callable[..., None]


@contextmanager
def progress(label: str, total: int, finished: int = 0, *, unit: str = "clips", last: bool = True) -> Iterator[Advance]:
    """Yield a function that counts finished items: ``advance()`` one, ``advance(n)`` several.

    Args:
        label: Printed first; nothing is shown where it is empty.
        total: Items of the whole work.
        finished: Items of an earlier run, which are not counted in the speed.
        unit: What an item is, in the plural.
        last: Leave a line when all items are finished, however short the work was.
    """
    if not label:
        yield lambda count=1: None
    elif sys.stderr.isatty():
        yield from _bar(label, total, finished, unit, last)
    else:
        yield from _lines(label, total, finished, unit, last)


def _bar(label: str, total: int, finished: int, unit: str, last: bool) -> Iterator[Advance]:
    from tqdm import tqdm

    with tqdm(desc=label, total=total, initial=finished, unit=f" {unit}", dynamic_ncols=True, leave=last) as bar:
        yield lambda count=1: bar.update(count) and None


def _lines(label: str, total: int, finished: int, unit: str, last: bool) -> Iterator[Advance]:
    began = shown = time.monotonic()
    done = 0

    def advance(count: int = 1) -> None:
        nonlocal done, shown
        done += count
        now = time.monotonic()
        if now - shown >= LINE_SECONDS or (last and finished + done == total):
            shown = now
            rate = done / max(now - began, 1e-9)
            print(f"{label}: {finished + done}/{total} {unit}, {rate:.1f} a second", file=sys.stderr, flush=True)

    yield advance
