"""Put other people's words into a prompt so that they stay words."""

from __future__ import annotations

import re
from typing import Final

# Every placeholder and special token of InternVL2, its language models and ms-swift begins with "<" and a letter,
# "/" or "|" (InternLM2 also knows [UNUSED_TOKEN_n]): one space after the bracket and none of them is left.
_OPENING: Final = re.compile(r"<(?=[/|!A-Za-z_])|\[(?=UNUSED_TOKEN)")
# A line break would let a transcript write its own "Target utterance:" line.
_BREAK: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


def neutralise(text: str) -> str:
    """Return the text unable to add media, roles or lines to a prompt; ordinary text is returned unchanged."""
    if text.isprintable() and "<" not in text and "[" not in text:  # nearly all transcripts; no break is printable
        return text
    return _OPENING.sub(lambda found: found.group() + " ", _BREAK.sub(" ", text))


MUTED: Final = "..."
# Greedy, as a transcript may hold quotes of its own.
_SPOKEN: Final = re.compile(r"(The person says: (['\"])).*(\2 <[a-z]+> )", re.DOTALL)


def mute(prompt: str, words: str = MUTED) -> str | None:
    """Return the prompt with other words, ``...``, for the person's; None for a prompt that quotes none."""
    found = _SPOKEN.search(prompt)
    return f"{prompt[: found.end(1)]}{words}{prompt[found.start(3) :]}" if found else None
