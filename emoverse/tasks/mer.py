"""Ask which emotion a clip shows (multimodal emotion recognition)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from emoverse.corpora import get_corpus
from emoverse.tasks.base import NO_EMOTION, Context, Gold, Question, Scorer, Skipped
from emoverse.tasks.labels import LabelScorer, LabelTask
from emoverse.tasks.mosei_scores import EMOTIONS as INTENSITIES
from emoverse.tasks.mosei_scores import PresenceScorer, has_presence
from emoverse.tasks.replies import label_for, labels_in

_INSTRUCTION: Final = "<emotion> Please determine which emotion label in the video represents: "


def labels(corpus: str) -> tuple[str, ...]:
    """Return the answers of a corpus, in the prompt's order."""
    return tuple(answer(emotion, corpus) for emotion in get_corpus(corpus).emotions)


@lru_cache(maxsize=256)
def answer(emotion: str, corpus: str) -> str:
    """Turn an emotion of the utterance table into the corpus's answer."""
    return f"{get_corpus(corpus).answer_labels.get(emotion, emotion).capitalize()}."


def prompt(text: str, corpus: str) -> str:
    """Return the authors' prompt; the transcript goes in verbatim, in single quotes (MELD) or double ones (MOSEI)."""
    quote, listed = _prompt_parts(corpus)
    return f"The person says: {quote}{text}{quote} {_INSTRUCTION}{listed}."


@lru_cache(maxsize=64)
def _prompt_parts(corpus: str) -> tuple[str, str]:
    """Return the quotation mark around the transcript, and the list of labels."""
    declared = get_corpus(corpus)
    *others, last = [declared.prompt_labels.get(emotion, emotion) for emotion in declared.emotions]
    return declared.quote, f"{', '.join(others)} or {last}"


@lru_cache(maxsize=64)
def _gold(answer: str, corpus: str) -> dict[str, Any]:
    """Return what all questions with this answer have in common."""
    return {"answer": answer, "answers": list(labels(corpus))}


class _EmotionRecognition(LabelTask):
    name = "mer"
    title = "emotion recognition"
    headline = "accuracy"
    rank = 0
    modality_dropout = True

    def question(self, context: Context) -> Question | Skipped:
        """Make the question of a labelled utterance."""
        utterance = context.utterance
        if utterance.emotion is None:
            return NO_EMOTION
        right = answer(utterance.emotion, utterance.corpus)
        text = prompt(context.transcript(utterance), utterance.corpus)
        gold = _gold(right, utterance.corpus)
        if utterance.corpus == "mosei" and utterance.intensities is not None:
            shown = [name for name, value in zip(INTENSITIES, utterance.intensities, strict=True) if value > 0]
            gold = {**gold, "present": shown}
        return Question(text, right, gold)

    def gold(self, answer: str, *, corpus: str, query: str = "") -> dict[str, Any]:
        """Return the answer, spelt as the corpus spells it, and the corpus's list of answers."""
        return dict(_gold(label_for(answer, labels(corpus)), corpus))

    def scorer(self, golds: Sequence[Gold]) -> Scorer:
        """Return the scorer of a confusion matrix, and of CMU-MOSEI's emotions that are present."""
        scorer = LabelScorer(golds)
        if not any(map(has_presence, golds)):
            return scorer
        forms = {name: label_for(name, scorer.labels) for name in INTENSITIES}

        def named(reply: str) -> set[str]:
            labels = labels_in(reply, scorer.labels)
            return {name for name, label in forms.items() if label in labels}

        return PresenceScorer(scorer, named)

    def default_corpus(self, answers: Iterable[str]) -> str:
        """Return mosei if "Happy." is a right answer: CMU-MOSEI's label, where MELD's is "Joy."."""
        return "mosei" if "Happy." in answers else "meld"


TASK = _EmotionRecognition()
