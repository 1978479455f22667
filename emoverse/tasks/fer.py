"""Ask what the face does (facial expression recognition): phrases of action units at the peak frame."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final

import numpy as np

from emoverse.corpora import EMOTIONS
from emoverse.tasks import NO_EMOTION, Context, Gold, Numbers, Question, Scorer, Skipped, Task, f1, ratio
from emoverse.tasks.replies import final_text, normalise

PROMPT: Final = "Detail the facial expressions used in the image."
"""The authors' prompt (their data figure); whether they put an identifier before it is unknown."""
_UNMEASURED: Final = Skipped(
    "no-action-units",
    "put OpenFace CSVs beside the corpus, or run validate with --action-units",
    tolerated=True,
)
_STILL: Final = Skipped("face-shows-nothing")


class _FacialExpression(Task):
    name = "fer"
    title = "facial expression"
    headline = "f1"
    rank = 2
    takes = EMOTIONS
    media = "peak"

    def question(self, context: Context) -> Question | Skipped:
        """Make the question of a clip whose action units were measured and fit its emotion."""
        if context.units is None:
            return _UNMEASURED
        if context.utterance.emotion is None:
            return NO_EMOTION
        active = phrases(context.units, context.utterance.emotion)
        if not active:
            return _STILL
        answer = "; ".join(active)
        return Question(text=PROMPT, answer=answer, gold=self.gold(answer, corpus=context.utterance.corpus))

    def parse(self, reply: str, gold: Gold) -> frozenset[str] | None:
        """Return the reply's phrases, known ones in their proper form; None if neither table nor gold has any."""
        predicted = parse_phrases(reply)
        return predicted if predicted & (parse_phrases(str(gold["answer"])) | set(known().values())) else None

    def scorer(self, golds: Sequence[Gold]) -> Scorer:
        """Return the scorer of sets of phrases."""
        return _PhraseScorer(golds)


def parse_phrases(reply: str) -> frozenset[str]:
    """Split a reply at semicolons, commas, full stops and line ends; a known phrase gets its proper form."""
    text = normalise(final_text(reply) or "")
    parts = (" ".join(part.strip(" *-•\"'`").split()) for part in re.split(r"[;,.\n。]", text))
    return frozenset(known().get(part, part) for part in parts if part)


class _PhraseScorer(Scorer):
    """Count phrases. Columns: hits, predicted, gold, the record's own F1, exact, unparsable, 1.

    A phrase that is not in the table counts as predicted and wrong, also in the gold of the authors' files.
    """

    def __init__(self, golds: Sequence[Gold]) -> None:
        super().__init__(golds)
        self._phrases = {str(gold["answer"]): parse_phrases(str(gold["answer"])) for gold in golds}

    def count(self, gold: Gold, reply: str) -> Iterable[float]:
        """Return a record's seven counts."""
        right, predicted = self._phrases[str(gold["answer"])], parse_phrases(reply)
        hits = len(right & predicted)
        record_f1 = 2.0 * hits / (len(right) + len(predicted)) if right or predicted else 1.0
        unparsable = not predicted & (right | set(known().values()))
        return hits, len(predicted), len(right), record_f1, right == predicted, unparsable, 1

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Return micro precision, recall and F1 over phrases, the mean F1 of records, exact and unparsable shares."""
        hits, predicted, gold, record_f1, exact, unparsable, size = np.moveaxis(totals, -1, 0)
        return {
            "precision": ratio(hits, predicted),
            "recall": ratio(hits, gold),
            "f1": f1(hits, predicted, gold),
            "record_f1": ratio(record_f1, size),
            "exact_match": ratio(exact, size),
            "unparsable": ratio(unparsable, size),
        }


TASK = _FacialExpression()


@cache
def tables() -> dict[str, Any]:
    """Return the data file: ``threshold``, ``phrases`` by unit, units by ``emotions``, a phrase for ``still`` faces."""
    return dict(json.loads(resources.files(__package__).joinpath("action_units.json").read_text("utf-8")))


def phrases(units: Mapping[str, float], emotion: str) -> tuple[str, ...]:
    """Return the phrases of the units that are active at the peak and belong to the emotion, by unit number.

    ``units`` maps ``"AU01"`` to its intensity, 0..5. A neutral face gives the one phrase for a still face.
    """
    data = tables()
    if emotion not in data["emotions"]:  # a corpus's own label
        return ()
    if not data["emotions"][emotion]:
        return (data["still"],)
    active = (unit for unit in sorted(data["emotions"][emotion]) if units.get(unit, 0.0) >= data["threshold"])
    return tuple(data["phrases"][unit] for unit in active)


@cache
def known() -> dict[str, str]:
    """Map every phrase in lower case to its proper form."""
    data = tables()
    return {phrase.lower(): phrase for phrase in (*data["phrases"].values(), data["still"])}
