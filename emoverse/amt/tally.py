"""Count what went into each file: answers, empty ones, ones outside the label set, contradictory prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from emoverse.amt.outputs import Rows

_LISTED: Final = 50
_KEPT: Final = 100_000
_ODD: Final = np.int64(0x2545F4914F6CDD1D)  # any large odd number: words and clip must not cancel each other out
Hashes = NDArray[np.int64]


class Tally:
    """Count the rows of one file in bounded memory: 24 bytes a row, and not many more than ``_KEPT`` answers."""

    def __init__(self) -> None:
        self.rows = 0
        self.answers: Counter[str] = Counter()
        self.empty = 0
        self.outside = 0
        self.placeholders = 0
        # Python's own hashes: 64 bits, and only equal ones are counted, so the counts do not depend on the hash seed.
        self._words: list[Hashes] = []
        self._clips: list[Hashes] = []
        self._answers: list[Hashes] = []

    def add(self, rows: Rows) -> None:
        """Count rows of one task."""
        if not len(rows):
            return
        found, allowed = Counter(rows.answers), rows.questions[0].gold["answers"]
        self.rows += len(rows)
        if len(self.answers) < _KEPT:
            self.answers.update(found)
        self.empty += sum(count for answer, count in found.items() if not answer.strip())
        self.placeholders += sum(query != "" for query in rows.queries)
        if allowed is not None:
            self.outside += sum(count for answer, count in found.items() if answer not in allowed)
        words = _hashes(rows.texts)
        self._words.append(words)
        self._clips.append(words * _ODD ^ _hashes(rows.ids) + hash(rows.tail))
        self._answers.append(_hashes(rows.answers))

    def report(self) -> dict[str, Any]:
        """Return the counts; contradictions are groups of equal prompts (and clips) with more than one answer."""
        held = (self._words, self._clips, self._answers)
        words, clips, answers = (np.concatenate(one) if one else np.zeros(0, np.int64) for one in held)
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


def _hashes(texts: Sequence[str] | Sequence[bytes]) -> Hashes:
    return np.fromiter(map(hash, texts), dtype=np.int64, count=len(texts))


def _contradictions(keys: Hashes, answers: Hashes) -> int:
    """Count the keys that occur with more than one answer: in any order, two that differ are somewhere neighbours."""
    order = np.argsort(keys, kind="stable")
    keys, answers = keys[order], answers[order]
    changed = (keys[1:] == keys[:-1]) & (answers[1:] != answers[:-1])
    return len(np.unique(keys[1:][changed]))
