"""Ask for the emotion and its reason in words (emotion reason inference)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np

from emoverse.corpora.base import EMOTIONS
from emoverse.tasks.base import (
    Confusion,
    Gold,
    LeftOut,
    Numbers,
    Question,
    Scene,
    Scorer,
    expect,
    majority,
    neutralise,
    ratio,
)
from emoverse.tasks.labels import parse_label

_ASK: Final = "<reason> What is the emotional state of the person in the video? Please tell me the reason."
_UNLABELLED: Final = LeftOut("no-emotion-label")
_UNREASONED: Final = LeftOut("no-reason", "the provider named in amt.reasons has no reason for it")
_LABELS: Final = (*EMOTIONS, "happy")


def prompt(text: str) -> str:
    """Return the authors' question in the form of their model figure: the words, the identifier, the instruction."""
    return f"The person says: '{text}' {_ASK}"


class _Eri:
    name = "eri"
    title = "emotion and its reason"
    headline = "emotion_agreement"
    media: Literal["clip", "peak"] = "clip"
    shows: Literal["utterance", "dialogue"] = "utterance"

    def ask(self, scene: Scene) -> Question | LeftOut:
        """Make the question of an utterance somebody gave a reason for."""
        one, reason = scene.utterance, scene.reason
        if one.emotion is None:
            return _UNLABELLED
        if reason is None:
            return _UNREASONED
        answer = neutralise(reason.text).strip()  # a model, a file or a speaker's name said it
        gold = {"answer": answer, "answers": None, "emotion": one.emotion, "clues": list(reason.clues)}
        text = prompt(scene.words(one))
        return Question(text=text, answer=answer, gold=gold, extra={"provider": reason.provider})

    def gold(self, answer: str, *, corpus: str, query: str = "") -> dict[str, Any]:
        """Return a published record's gold; its emotion is the first its answer names, clues are unknown."""
        return {"answer": answer, "answers": None, "emotion": emotion_in(answer), "clues": []}

    def parse(self, reply: str, gold: Gold) -> str | None:
        """Return the emotion the reply names first."""
        return emotion_in(reply)

    def scorer(self, golds: Sequence[Gold]) -> Scorer:
        """Return the scorer of reasons."""
        return _ReasonScorer(golds)

    def baselines(self, golds: Sequence[Gold], trained: Counter[str]) -> dict[str, list[str]]:
        """Give the commonest reason."""
        return {"majority": [majority(golds, trained)] * len(golds)}


def emotion_in(text: str) -> str | None:
    """Return the first emotion a text names, in the table's words."""
    found = parse_label(text, _LABELS)
    return "joy" if found == "happy" else found


class _ReasonScorer:
    """Count agreement with the gold reason. Columns: same emotion, clues found, clues, ROUGE-L F1, no emotion, 1."""

    def __init__(self, golds: Sequence[Gold]) -> None:
        self._golds = list(golds)

    @property
    def size(self) -> int:
        """Return the number of records."""
        return len(self._golds)

    def counts(self, replies: Sequence[str]) -> Numbers:
        """Return an (n, 6) array."""
        expect(replies, self.size)
        rows = []
        for gold, reply in zip(self._golds, replies, strict=True):
            said, clues, lower = emotion_in(reply), list(gold["clues"]), reply.lower()
            found = sum(str(clue).lower() in lower for clue in clues)
            alike = rouge_l(str(gold["answer"]), reply)
            rows.append((said is not None and said == gold["emotion"], found, len(clues), alike, said is None, 1))
        return np.array(rows, dtype=np.float64)

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Return emotion agreement, the share of clues found, mean ROUGE-L F1 and the unparsable share."""
        same, found, clues, alike, lost, size = np.moveaxis(totals, -1, 0)
        return {
            "emotion_agreement": ratio(same, size),
            "clue_overlap": ratio(found, clues),
            "rouge_l": ratio(alike, size),
            "unparsable": ratio(lost, size),
        }

    def confusion(self, totals: Numbers) -> Confusion | None:
        """Return None: free text has no confusion matrix."""
        return None


TASK = _Eri()


def rouge_l(gold: str, reply: str) -> float:
    """Return ROUGE-L's F1 (C.-Y. Lin, 2004; beta 1) over lower-case alphanumeric words, 0..1."""
    one, two = (re.findall(r"[^\W_]+", text.lower()) for text in (gold, reply))
    if not one or not two:
        return float(one == two)
    row = [0] * (len(two) + 1)
    for word in one:
        diagonal = 0
        for j, other in enumerate(two, start=1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return 2.0 * row[-1] / (len(one) + len(two))
