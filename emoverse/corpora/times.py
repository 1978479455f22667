"""Read the episode times of MELD and ECF."""

from __future__ import annotations

import re
from typing import Final

_TIME: Final = re.compile(r"(\d{1,2}):([0-5]\d):([0-5]\d)[,.](\d{1,3})\Z", re.ASCII)


def seconds(word: str) -> float | None:
    """Read ``00:14:38,127``, ``0:10:44,769`` or ``00:06:47.28`` as seconds; None when it is none of these.

    Three real rows have two digits after the separator. They are milliseconds written without a leading zero: both
    corpora took them from subtitles, which count milliseconds.
    """
    found = _TIME.match(word)
    if found is None:
        return None
    hours, minutes, whole, milli = found.groups()
    return round(int(hours) * 3600 + int(minutes) * 60 + int(whole) + int(milli) / 1000, 3)


def episode_name(season: int, episode: int) -> str:
    """Return ``"S01E02"``."""
    return f"S{season:02d}E{episode:02d}"
