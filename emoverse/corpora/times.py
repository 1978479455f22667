"""Read the episode times of MELD and ECF."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_TIME: Final = re.compile(r"(\d{1,2}):([0-5]\d):([0-5]\d)[,.](\d{1,3})\Z", re.ASCII)

_HEAD: Final = re.compile(r"(\d{1,2}):([0-5]\d):\Z", re.ASCII)
_TAIL: Final = re.compile(r"([0-5]\d)[,.](\d{3})\Z", re.ASCII)


def seconds(word: str) -> float | None:
    """Read ``00:14:38,127``, ``0:10:44,769`` or ``00:06:47.28`` as seconds; None when it is none of these.

    Three real rows have two digits after the separator. They are milliseconds written without a leading zero: both
    corpora took them from subtitles, which count milliseconds.
    """
    minutes, milli = _minutes(word[:-6]), _milli(word[-6:])
    if minutes is not None and milli is not None:
        return (minutes * 60_000 + milli) / 1000
    found = _TIME.match(word)
    if found is None:
        return None
    hours, minute, whole, rest = map(int, found.groups())
    return (hours * 3_600_000 + minute * 60_000 + whole * 1000 + rest) / 1000


# Both parts of a time recur all over a corpus, so each is parsed once.
@lru_cache(maxsize=1 << 12)
def _minutes(word: str) -> int | None:
    found = _HEAD.match(word)
    return int(found[1]) * 60 + int(found[2]) if found else None


@lru_cache(maxsize=1 << 16)
def _milli(word: str) -> int | None:
    found = _TAIL.match(word)
    return int(found[1]) * 1000 + int(found[2]) if found else None


@lru_cache(maxsize=1 << 12)
def episode_name(season: int, episode: int) -> str:
    """Return ``"S01E02"``."""
    return f"S{season:02d}E{episode:02d}"
