"""Word an utterance so that its text fits the emotion and does not give it away.

62 % of utterances hold a phrase of the clip's emotion, 24 % one that fits any, 14 % one of another emotion; 60 %
end with a phrase that carries the valence.
"""

from typing import Final

import numpy as np

from emoverse.synthetic.phrases import BY_EMOTION, GENERIC, TAILS

OWN_SHARE: Final = 0.62
GENERIC_SHARE: Final = 0.24
TAIL_SHARE: Final = 0.60
VALENCES: Final = {"neutral": 0, "joy": 1, "anger": -1, "sadness": -1, "disgust": -1, "fear": -1}
"""Valence an emotion implies; surprise implies none."""


def valence_of(emotion: str, rng: np.random.Generator) -> int:
    """Return 1, 0 or -1; surprise is drawn either way with equal odds."""
    if emotion == "surprise":
        return 1 if rng.random() < 0.5 else -1
    return VALENCES[emotion]


def word(emotion: str, valence: int, topic: tuple[str, str], used: set[str], rng: np.random.Generator) -> str:
    """Return an utterance about a topic (thing, place) without phrases in `used`, to which it adds its own."""
    draw = rng.random()
    if draw < OWN_SHARE:
        bank = BY_EMOTION[emotion]
    elif draw < OWN_SHARE + GENERIC_SHARE:
        bank = GENERIC
    else:
        others = [name for name in BY_EMOTION if name != emotion]
        bank = BY_EMOTION[others[int(rng.integers(len(others)))]]
    parts = [_pick(bank, used, rng)]
    if rng.random() < TAIL_SHARE:
        parts.append(_pick(TAILS[valence], used, rng))
    return " ".join(parts).format(thing=topic[0], place=topic[1])


def _pick(bank: tuple[str, ...], used: set[str], rng: np.random.Generator) -> str:
    fresh = [phrase for phrase in bank if phrase not in used] or list(bank)
    phrase = fresh[int(rng.integers(len(fresh)))]
    used.add(phrase)
    return phrase
