"""Count what went into each file: answers, empty ones, ones outside the label set, contradictory prompts."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any, Final

import numpy as np

_LISTED: Final = 50
_KEPT: Final = 100_000


class Tally:
    """Count the rows of one file in bounded memory: 24 bytes a row, and at most ``_KEPT`` different answers."""

    def __init__(self) -> None:
        self.rows = 0
        self.answers: Counter[str] = Counter()
        self.empty = 0
        self.outside = 0
        self.placeholders = 0
        # Python's own hashes: 64 bits, and only equal ones are counted, so the counts do not depend on the hash seed.
        self._words, self._clips, self._answers = array("q"), array("q"), array("q")

    def add(
        self, prompt: str, media: str, answer: str, allowed: list[str] | None, *, placeholder: bool = False
    ) -> None:
        """Count one row; ``allowed`` is the closed list of answers, None for an open task."""
        self.rows += 1
        if answer in self.answers or len(self.answers) < _KEPT:
            self.answers[answer] += 1
        self.empty += not answer.strip()
        self.placeholders += placeholder
        if allowed is not None:
            self.outside += answer not in allowed
        self._words.append(hash(prompt))
        self._clips.append(hash((media, prompt)))
        self._answers.append(hash(answer))

    def report(self) -> dict[str, Any]:
        """Return the counts; contradictions are groups of equal prompts (and clips) with more than one answer."""
        held = (self._words, self._clips, self._answers)
        words, clips, answers = (np.frombuffer(one, dtype=np.int64) if one else np.zeros(0, np.int64) for one in held)
        common = sorted(self.answers.items(), key=lambda item: (-item[1], item[0]))
        return {
            "rows": self.rows,
            "answers": dict(common[:_LISTED]),
            "different_answers": len(self.answers),
            "empty_answers": self.empty,
            "answers_outside_set": self.outside,
            "prompts_with_placeholders": self.placeholders,
            "same_words_other_answer": _contradictions(words, answers),
            "same_words_and_clip_other_answer": _contradictions(clips, answers),
        }


def _contradictions(keys: Any, answers: Any) -> int:
    """Count the keys that occur with more than one answer."""
    if not len(keys):
        return 0
    order = np.lexsort((answers, keys))
    keys, answers = keys[order], answers[order]
    changed = (keys[1:] == keys[:-1]) & (answers[1:] != answers[:-1])
    return len(np.unique(keys[1:][changed]))
