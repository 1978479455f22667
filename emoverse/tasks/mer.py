"""Ask which emotion a clip shows (multimodal emotion recognition).

CMU-MOSEI also says how intense each of six emotions is. Then each is scored as present (intensity above 0) or absent,
as CMU's SDK does: by weighted accuracy, (TPR + TNR) / 2, and by weighted F1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from emoverse.corpora import get_corpus
from emoverse.tasks import (
    NO_EMOTION,
    Context,
    ExtendedScorer,
    Gold,
    LabelScorer,
    LabelTask,
    Numbers,
    Question,
    Scorer,
    Skipped,
    binary_weighted_f1,
    ratio,
)
from emoverse.tasks.replies import label_for, labels_in

INTENSITIES: Final = ("happy", "sad", "anger", "surprise", "disgust", "fear")
"""CMU's order, which ``Utterance.intensities`` has."""
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


class PresenceScorer(ExtendedScorer):
    """Add the scores of six emotions as present or absent, for records whose gold lists those ``present``."""

    width = 4 * len(INTENSITIES)

    def __init__(self, inner: Scorer, named: Callable[[str], Collection[str]]) -> None:
        super().__init__(inner)
        self._named = named

    def counts(self, replies: Sequence[str]) -> Numbers:
        """Return the other scorer's counts, and a confusion matrix of four for each emotion."""
        counts, more = self._inner.counts(replies), np.zeros((self.size, self.width))
        for row, gold, reply in zip(more, self.golds, replies, strict=True):
            if has_presence(gold):
                named = self._named(reply)
                for i, emotion in enumerate(INTENSITIES):
                    row[4 * i + (2 * (emotion in gold["present"]) + (emotion in named))] = 1.0
        return np.column_stack([counts, more])

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Return the other scorer's scores, each emotion's, and their means."""
        cells = totals[..., -self.width :].reshape(*totals.shape[:-1], len(INTENSITIES), 4)
        tn, fp, fn, tp = np.moveaxis(cells, -1, 0)
        accuracy = (ratio(tp, tp + fn) + ratio(tn, tn + fp)) / 2
        weighted = binary_weighted_f1(tp, fp, fn, tn)
        scores = self._inner.scores(totals[..., : -self.width])
        scores |= {"present_weighted_accuracy": accuracy.mean(-1), "present_weighted_f1": weighted.mean(-1)}
        for i, emotion in enumerate(INTENSITIES):
            scores[f"present_weighted_accuracy/{emotion}"] = accuracy[..., i]
            scores[f"present_weighted_f1/{emotion}"] = weighted[..., i]
        return scores


def has_presence(gold: Gold) -> bool:
    """Return whether a record says which emotions are present."""
    return isinstance(gold.get("present"), list)


TASK = _EmotionRecognition()
