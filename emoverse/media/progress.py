"""Show how far long work is: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

EVERY: Final = 30.0  # seconds between two lines of a log


@contextmanager
def progress(label: str, total: int, finished: int = 0, *, unit: str = "clips") -> Iterator[Callable[[], None]]:
    """Yield a function to call after each of ``total`` items; nothing is shown without a label. Writes to stderr."""
    if not label:
        yield lambda: None
    elif sys.stderr.isatty():
        yield from _bar(label, total, finished, unit)
    else:
        yield from _lines(label, total, finished, unit)


def _bar(label: str, total: int, finished: int, unit: str) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, completed=finished)
        yield lambda: bar.advance(task)


def _lines(label: str, total: int, finished: int, unit: str) -> Iterator[Callable[[], None]]:
    began = shown = time.monotonic()
    count = 0

    def step() -> None:
        nonlocal count, shown
        count += 1
        now = time.monotonic()
        if now - shown >= EVERY or finished + count == total:
            shown = now
            rate = count / max(now - began, 1e-9)
            print(f"{label}: {finished + count}/{total} {unit}, {rate:.1f} a second", file=sys.stderr, flush=True)

    yield step
