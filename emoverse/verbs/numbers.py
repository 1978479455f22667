"""Readers of numbers for options: a wrong one is refused with the usage, before anything is imported or read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def count(least: int = 1, most: int = 10**9) -> Callable[[str], int]:
    """Return a reader of whole numbers from ``least`` to ``most``."""

    def read(word: str) -> int:
        if not (word.isascii() and word.isdigit() and len(word) <= len(str(most))) or not least <= int(word) <= most:
            raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from {least} to {most}")
        return int(word)

    return read


def above_zero(word: str) -> float:
    """Read a finite number above 0."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number above 0")
    return value
