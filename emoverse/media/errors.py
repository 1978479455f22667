"""Name what can be wrong with a clip: one error type, a few stable reasons."""

from __future__ import annotations

import re
from typing import Final

from emoverse.errors import UserError

REASONS: Final = {
    "clip-missing": "no file lies where the annotation points",
    "clip-outside-root": "the path or a link leads out of the corpus folder",
    "clip-empty": "the file has no bytes, or no frames",
    "clip-truncated": "the file ends before its own header says",
    "clip-unreadable": "no decoder could read it",
    "no-video-stream": "it holds sound only",
    "clip-timeout": "the decoder did not answer in time and was stopped",
    "clip-crashed-decoder": "the decoder took its process down",
    "clip-unannotated": "no annotation row mentions the file",
}


class ClipError(UserError):
    """Report one clip that cannot be used: ``reason`` is a key of REASONS, ``problem`` the decoder's own words."""

    def __init__(self, reason: str, detail: str, *, clip: str = "") -> None:
        assert reason in REASONS, reason
        self.reason, self.detail = reason, tidy(detail)
        super().__init__(f"{reason}: {self.detail}", place=clip, remedy="replace the file, or leave it out")


def tidy(text: str) -> str:
    """Return a decoder's message without clock, addresses and stack, so that two runs write the same bytes."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    kept = []
    for line in lines:
        if line.startswith(("Stack trace", "[bt]")):
            break
        line = re.sub(r"\[\d\d:\d\d:\d\d\] ", "", line)
        line = re.sub(r" ?@ ?0x[0-9a-fA-F]+", "", line)
        line = re.sub(r"\(-?\d+ vs\. ", "(", line)  # decord prints an uninitialised number here
        kept.append(re.sub(r"/\S*/(src/)", r"\1", line))
    return " ".join(kept)[:500] or "no message"
