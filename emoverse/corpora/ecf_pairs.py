"""Read the emotion-cause pairs of one ECF conversation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from emoverse.corpora.files import Problems

_EMOTION: Final = re.compile(r"(\d{1,6})_([a-z]+)\Z", re.ASCII)
_CAUSE: Final = re.compile(r"(\d{1,6})(?:_.*)?\Z", re.ASCII | re.DOTALL)  # subtask 1 adds the span: "1_I do not want"


def causes_of(
    item: Mapping[str, Any], i: int, split: str, emotions: Mapping[str, Any], problems: Problems, folder: str
) -> tuple[dict[int, tuple[int, ...]], set[int]]:
    """Return each target's causes in file order, and the targets set aside because one of their pairs is bad.

    ``emotions`` maps an utterance number (as text) to its annotated emotion; clips lie in ``folder``. A pair must name
    two utterances of the conversation and its target's own emotion. A bad pair sets its target aside: with one cause
    missing the right answer would be a wrong one.
    """
    causes: dict[int, list[int]] = {}
    bad: set[int] = set()
    for j, pair in enumerate(item["emotion-cause_pairs"]):
        target, cause, fault = _read(pair, emotions)
        if fault:
            name = f"dia{item['conversation_ID']}utt{target}" if target else f"dia{item['conversation_ID']}#pair{j}"
            if target not in bad:
                where = f"[{i}].emotion-cause_pairs[{j}]"
                clip = f"{folder}/{name}.mp4" if target else ""
                problems.add(f"ecf/{split}/{name}", where, "emotion-cause_pairs", *fault, clip=clip)
            if target:
                bad.add(target)
        elif cause not in causes.setdefault(target, []):
            causes[target].append(cause)
    return {target: tuple(found) for target, found in causes.items()}, bad


def _read(pair: Any, emotions: Mapping[str, Any]) -> tuple[int, int, tuple[str, str] | None]:
    """Return target, cause and (reason, detail) of a fault; the target is 0 when it names no utterance."""
    if not isinstance(pair, list) or len(pair) != 2 or set(map(type, pair)) != {str}:
        return 0, 0, ("bad-pair", f"{pair!r} is not [target_emotion, cause]")
    left, cause = _target(pair[0]), _cause(pair[1])
    if left is None:
        return 0, 0, ("bad-pair", f"{pair[0]!r} is not number_emotion")
    number, emotion = left
    if number not in emotions:
        return 0, 0, ("bad-cause", f"target {number} does not exist; {_size(emotions)}")
    if not cause or cause not in emotions:
        return int(number), 0, ("bad-cause", f"cause {pair[1]!r} does not exist; {_size(emotions)}")
    if emotion != emotions[number]:
        return int(number), 0, ("bad-pair", f"{pair[0]!r} contradicts the utterance's emotion {emotions[number]!r}")
    return int(number), int(cause), None


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
