"""Read the emotion-cause pairs of one ECF conversation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from emoverse.corpora.files import BadRow

PAIRS: Final = "emotion-cause_pairs"

_EMOTION: Final = re.compile(r"(\d{1,6})_([a-z]+)\Z", re.ASCII)
_CAUSE: Final = re.compile(r"(\d{1,6})(?:_.*)?\Z", re.ASCII | re.DOTALL)  # subtask 1 adds the span: "1_I do not want"


class Pairs(NamedTuple):
    """A conversation's pairs by target, whose utterance number is text, as pairs have it.

    ``causes`` are in file order, ``faults`` set their target aside: with one cause missing the right answer would be
    a wrong one. ``stray`` pairs name no target that exists; they are listed by their place.
    """

    causes: dict[str, tuple[int, ...]]
    faults: dict[str, list[BadRow]]
    stray: dict[int, BadRow]


def read_pairs(pairs: Sequence[Any], emotions: Mapping[str, Any]) -> Pairs:
    """Read the pairs of a conversation; ``emotions`` maps its utterance numbers to their annotated emotions.

    A pair must name two utterances of the conversation and its target's own emotion.
    """
    causes: dict[str, list[int]] = {}
    faults: dict[str, list[BadRow]] = {}
    stray: dict[int, BadRow] = {}
    for j, pair in enumerate(pairs):
        target, cause, fault = _read(pair, emotions)
        if fault and target:
            faults.setdefault(target, []).append(BadRow(f"{PAIRS}[{j}]", *fault))
        elif fault:
            stray[j] = BadRow(PAIRS, *fault)
        elif cause not in causes.setdefault(target, []):
            causes[target].append(cause)
    return Pairs({target: tuple(found) for target, found in causes.items()}, faults, stray)


def _read(pair: Any, emotions: Mapping[str, Any]) -> tuple[str, int, tuple[str, str] | None]:
    """Return target, cause and (reason, detail) of a fault; the target is empty when it names no utterance."""
    if not isinstance(pair, list) or list(map(type, pair)) != [str, str]:
        return "", 0, ("bad-pair", f"{pair!r} is not [target_emotion, cause]")
    left, cause = _target(pair[0]), _cause(pair[1])
    if left is None:
        return "", 0, ("bad-pair", f"{pair[0]!r} is not number_emotion")
    number, emotion = left
    if number not in emotions:
        return "", 0, ("bad-cause", f"target {number} does not exist; {_size(emotions)}")
    if not cause or cause not in emotions:
        return number, 0, ("bad-cause", f"cause {pair[1]!r} does not exist; {_size(emotions)}")
    if emotion != emotions[number]:
        return number, 0, ("bad-pair", f"{pair[0]!r} contradicts the utterance's emotion {emotions[number]!r}")
    return number, int(cause), None


# A file repeats few of both.
@lru_cache(maxsize=1 << 12)
def _target(word: str) -> tuple[str, str] | None:
    found = _EMOTION.match(word)
    return (found[1], found[2]) if found else None


@lru_cache(maxsize=1 << 12)
def _cause(word: str) -> str:
    found = _CAUSE.match(word)
    return found[1] if found else ""


def _size(emotions: Mapping[str, Any]) -> str:
    return f"the conversation has {len(emotions)} utterances"
