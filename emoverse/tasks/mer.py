"""Ask which emotion a clip shows (multimodal emotion recognition)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, Literal

from emoverse.corpora.base import EMOTIONS
from emoverse.tasks.base import Gold, LeftOut, Question, Scene, Scorer, majority
from emoverse.tasks.labels import LabelScorer, parse_label

# MELD's list in the order of the authors' published prompt; MOSEI's words and labels as in their figure and scorer.
_MELD: Final = ("Anger.", "Sadness.", "Surprise.", "Disgust.", "Joy.", "Neutral.", "Fear.")
_MOSEI: Final = ("Anger.", "Sadness.", "Surprise.", "Disgust.", "Happy.", "Neutral.", "Fear.")
_ANSWERS: Final = {name: f"{name.capitalize()}." for name in EMOTIONS}
_UNLABELLED: Final = LeftOut("no-emotion-label", "give the corpus's emotion labels (MOSEI: CMU_MOSEI_Labels.csd)")
_ASK: Final = "<emotion> Please determine which emotion label in the video represents: "


def labels(corpus: str) -> tuple[str, ...]:
    """Return the answers of a corpus, in the prompt's order; every corpus but MOSEI uses MELD's words."""
    return _MOSEI if corpus == "mosei" else _MELD


def answer(emotion: str, corpus: str) -> str:
    """Turn the table's emotion word into the corpus's answer."""
    return "Happy." if corpus == "mosei" and emotion == "joy" else _ANSWERS[emotion]


def prompt(text: str, corpus: str) -> str:
    """Return the authors' prompt; the words go in verbatim, in single quotes (MELD) or double ones (MOSEI)."""
    if corpus == "mosei":
        return f'The person says: "{text}" {_ASK}anger, sad, surprise, disgust, happy, neutral or fear.'
    return f"The person says: '{text}' {_ASK}anger, sadness, surprise, disgust, joy, neutral or fear."


@lru_cache(maxsize=64)
def _gold(answer: str, corpus: str) -> dict[str, Any]:
    """Return what all questions with this answer have in common."""
    return {"answer": answer, "answers": list(labels(corpus))}


class _Mer:
    name = "mer"
    title = "emotion recognition"
    headline = "accuracy"
    media: Literal["clip", "peak"] = "clip"
    shows: Literal["utterance", "dialogue"] = "utterance"

    def ask(self, scene: Scene) -> Question | LeftOut:
        """Make the question of a labelled utterance."""
        one = scene.utterance
        if one.emotion is None:
            return _UNLABELLED
        right = answer(one.emotion, one.corpus)
        return Question(prompt(scene.words(one), one.corpus), right, _gold(right, one.corpus))

    def gold(self, answer: str, *, corpus: str, query: str = "") -> dict[str, Any]:
        """Return the answer and the corpus's list of answers."""
        return dict(_gold(answer, corpus))

    def parse(self, reply: str, gold: Gold) -> str | None:
        """Return the label the reply names."""
        return parse_label(reply, gold["answers"])

    def scorer(self, golds: Sequence[Gold]) -> Scorer:
        """Return the scorer of a confusion matrix."""
        return LabelScorer(golds)

    def baselines(self, golds: Sequence[Gold], trained: Counter[str]) -> dict[str, list[str]]:
        """Give the commonest emotion."""
        return {"majority": [majority(golds, trained)] * len(golds)}


TASK = _Mer()
