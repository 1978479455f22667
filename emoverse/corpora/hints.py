"""Guess which emotion a misspelt or foreign label meant."""

from __future__ import annotations

import difflib
from typing import Final

from emoverse.corpora.base import EMOTIONS
from emoverse.errors import did_you_mean

_OTHER_WORDS: Final = {
    "happy": "joy", "happiness": "joy", "joyful": "joy", "sad": "sadness", "angry": "anger", "mad": "anger",
    "surprised": "surprise", "disgusted": "disgust", "afraid": "fear", "scared": "fear", "fearful": "fear",
    "calm": "neutral", "none": "neutral",
}  # fmt: skip


def emotion_hint(word: str) -> str:
    """Return ``"did you mean 'joy'?"`` for ``hapy`` and ``joi`` alike, or the list of emotions."""
    near = difflib.get_close_matches(word.lower(), [*EMOTIONS, *_OTHER_WORDS], n=1, cutoff=0.7)
    return f"did you mean {_OTHER_WORDS.get(near[0], near[0])!r}?" if near else did_you_mean(word, EMOTIONS)
