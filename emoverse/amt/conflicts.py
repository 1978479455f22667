"""Find utterances that two corpora share and label differently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from emoverse.amt.leakage import Side, overlaps, same_clips

MIN_IOU: Final = 0.5
"""Share of the union two spans of an episode must have in common to be one utterance."""


class Conflict(NamedTuple):
    """One utterance under two ids with two emotions."""

    one_id: str
    other_id: str
    one_emotion: str
    other_emotion: str


def shared_utterances(pairs: Sequence[tuple[Side, Side]]) -> list[tuple[str, str]]:
    """Return (id, id) of utterances that two different corpora share, by clip or by episode and time, sorted."""
    halves: list[Side] = [side for pair in pairs for side in pair]
    found: set[tuple[str, str]] = set()
    for i, one in enumerate(halves):
        for other in halves[i + 1 :]:
            if one.corpus != other.corpus:
                found.update(same_clips(one, other))
                found.update((left, right) for right, left in same_clips(other, one))
                found.update(overlaps(one, other, MIN_IOU))
    return sorted(found)


def conflicts(pairs: Iterable[tuple[str, str]], emotion: dict[str, str | None]) -> list[Conflict]:
    """Return the pairs whose emotions differ, where both have one."""
    found = []
    for one, other in pairs:
        left, right = emotion[one], emotion[other]
        if left is not None and right is not None and left != right:
            found.append(Conflict(one, other, left, right))
    return sorted(found)


def summary(pairs: Sequence[tuple[str, str]], found: Sequence[Conflict]) -> dict[str, Any]:
    """Return how many utterances are shared, how many differ, and the commonest differences."""
    kinds = Counter(f"{one.one_emotion} -> {one.other_emotion}" for one in found)
    return {
        "shared_utterances": len(pairs),
        "different_emotion": len(found),
        "commonest": dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:10]),
    }
