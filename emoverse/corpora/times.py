"""Read the episode times of MELD and ECF."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_CLOCK: Final = re.compile(r"(\d{1,2}):([0-5]\d):([0-5]\d)\Z", re.ASCII)
_REST: Final = re.compile(r"[,.](\d{3})\Z", re.ASCII)
_SHORT: Final = re.compile(r"(.*)[,.](\d{1,2})\Z", re.ASCII)


def seconds(word: str) -> float | None:
    """Read ``00:14:38,127``, ``0:10:44,769`` or ``00:06:47.28`` as seconds; None when it is none of these.

    Three real rows have two digits after the separator. They are milliseconds written without a leading zero: both
    corpora took them from subtitles, which count milliseconds.
    """
    whole, rest = _whole(word[:-4]), _thousandths(word[-4:])
    if whole is None or rest is None:
        found = _SHORT.match(word)
        whole, rest = (_whole(found[1]), int(found[2])) if found else (None, None)
    return None if whole is None or rest is None else (whole * 1000 + rest) / 1000


# Both parts of a time recur all over a corpus, so each is parsed once.
@lru_cache(maxsize=1 << 13)
def _whole(word: str) -> int | None:
    found = _CLOCK.match(word)
    return int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3]) if found else None


@lru_cache(maxsize=1 << 11)
def _thousandths(word: str) -> int | None:
    found = _REST.match(word)
    return int(found[1]) if found else None


@lru_cache(maxsize=1 << 12)
def episode_name(season: int, episode: int) -> str:
    """Return ``"S01E02"``."""
    return f"S{season:02d}E{episode:02d}"
