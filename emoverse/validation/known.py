"""Tell which faults of the published clips others have reported before."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources


@dataclass(frozen=True)
class KnownFault:
    """One report: clip patterns (relative to the corpus root), what was said, and where."""

    clips: tuple[str, ...]
    fault: str
    source: str

    def covers(self, clip: str) -> bool:
        """Tell whether a clip is one of those reported."""
        return any(fnmatchcase(clip, pattern) for pattern in self.clips)


def known_faults(corpus: str) -> list[KnownFault]:
    """Return what has been reported about a corpus's clips; empty for a corpus nobody reported on."""
    text = resources.files("emoverse.validation").joinpath("known_media.json").read_text("utf-8")
    return [KnownFault(tuple(e["clips"]), e["fault"], e["source"]) for e in json.loads(text).get(corpus, [])]


def fault_of(clip: str, faults: Iterable[KnownFault]) -> KnownFault | None:
    """Return the first report that covers a clip."""
    return next((fault for fault in faults if fault.covers(clip)), None)
