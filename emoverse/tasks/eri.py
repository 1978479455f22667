"""Ask for the emotion and its reason as free text (emotion reason inference)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from emoverse.corpora import EMOTIONS
from emoverse.tasks import NO_EMOTION, Context, Gold, Numbers, Question, Scorer, Skipped, Task, neutralise, ratio
from emoverse.tasks.replies import final_text, read_label

_INSTRUCTION: Final = "<reason> What is the emotional state of the person in the video? Please tell me the reason."
_NO_REASON: Final = Skipped("no-reason", "the provider named in amt.reasons has no reason for it")


def prompt(text: str) -> str:
    """Return the authors' question as their model figure has it: transcript, identifier, instruction."""
    return f"The person says: '{text}' {_INSTRUCTION}"


class _EmotionReason(Task):
    name = "eri"
    title = "emotion and its reason"
    headline = "emotion_agreement"
    rank = 3
    takes = EMOTIONS
    needs_reason = True
    free_text = True

    def question(self, context: Context) -> Question | Skipped:
        """Make the question of an utterance that has a reason."""
        utterance, reason = context.utterance, context.reason
        if utterance.emotion is None:
            return NO_EMOTION
        if reason is None:
            return _NO_REASON
        answer = neutralise(reason.text).strip()  # written by a model, a file or with a speaker's name
        gold = {"answer": answer, "answers": None, "emotion": utterance.emotion, "clues": list(reason.clues)}
        text = prompt(context.transcript(utterance))
        return Question(text=text, answer=answer, gold=gold, extra={"provider": reason.provider})

    def gold(self, answer: str, *, corpus: str, query: str = "") -> dict[str, Any]:
        """Return a published record's gold; its emotion is the first that its answer names, clues are unknown."""
        return {"answer": answer, "answers": None, "emotion": emotion_in(answer), "clues": []}

    def parse(self, reply: str, gold: Gold) -> str | None:
        """Return the emotion that the reply names first."""
        return emotion_in(reply)

    def scorer(self, golds: Sequence[Gold]) -> Scorer:
        """Return the scorer of reasons."""
        return _ReasonScorer(golds)


def emotion_in(text: str) -> str | None:
    """Return the emotion that a text gives, the first of several, as the utterance table spells it."""
    return read_label(text, EMOTIONS, echoes=False).label


class _ReasonScorer(Scorer):
    """Count agreement with the gold reason. Columns: same emotion, clues named, clues, ROUGE-L F1, no emotion, 1."""

    def count(self, gold: Gold, reply: str) -> Iterable[float]:
        """Return a record's six counts."""
        emotion, clues, text = emotion_in(reply), list(gold["clues"]), final_text(reply) or ""
        lower = text.lower()
        named = sum(str(clue).lower() in lower for clue in clues)
        similarity = rouge_l(str(gold["answer"]), text)
        return emotion is not None and emotion == gold["emotion"], named, len(clues), similarity, emotion is None, 1

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Return emotion agreement, the share of clues named, mean ROUGE-L F1 and the unparsable share."""
        same, named, clues, similarity, unparsable, size = np.moveaxis(totals, -1, 0)
        return {
            "emotion_agreement": ratio(same, size),
            "clue_overlap": ratio(named, clues),
            "rouge_l": ratio(similarity, size),
            "unparsable": ratio(unparsable, size),
        }


TASK = _EmotionReason()


def rouge_l(gold: str, reply: str) -> float:
    """Return ROUGE-L's F1 (C.-Y. Lin, 2004; beta 1) over lower-case alphanumeric words, 0..1."""
    first, second = (re.findall(r"[^\W_]+", text.lower()) for text in (gold, reply))
    if not first or not second:
        return float(first == second)
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return 2.0 * row[-1] / (len(first) + len(second))
