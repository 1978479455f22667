"""Ask what the face does (facial expression recognition): phrases of action units at the peak frame."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

import numpy as np

from emoverse.tasks.base import Confusion, Gold, LeftOut, Numbers, Question, Scene, Scorer, expect, f1, majority, ratio

PROMPT: Final = "Detail the facial expressions used in the image."
"""The authors' words (their data figure); whether they put an identifier before it is unknown."""
_UNMEASURED: Final = LeftOut(
    "no-action-units",
    "put OpenFace CSVs beside the corpus, or run validate with --action-units",
    tolerated=True,
)
_UNLABELLED: Final = LeftOut("no-emotion-label")
_STILL: Final = LeftOut("face-shows-nothing")


class _Fer:
    name = "fer"
    title = "facial expression"
    headline = "f1"
    media: Literal["clip", "peak"] = "peak"
    shows: Literal["utterance", "dialogue"] = "utterance"

    def ask(self, scene: Scene) -> Question | LeftOut:
        """Make the question of a clip whose face was measured and shows its emotion."""
        if scene.units is None:
            return _UNMEASURED
        if scene.utterance.emotion is None:
            return _UNLABELLED
        found = phrases(scene.units, scene.utterance.emotion)
        if not found:
            return _STILL
        right = "; ".join(found)
        return Question(text=PROMPT, answer=right, gold=self.gold(right, corpus=scene.utterance.corpus))

    def gold(self, answer: str, *, corpus: str, query: str = "") -> dict[str, Any]:
        """Return the answer; its phrases are read from it."""
        return {"answer": answer, "answers": None}

    def parse(self, reply: str, gold: Gold) -> frozenset[str] | None:
        """Return the reply's phrases, known ones in their proper form; None when no table nor the gold knows any."""
        found = parse_phrases(reply)
        return found if found & (parse_phrases(str(gold["answer"])) | set(known().values())) else None

    def scorer(self, golds: Sequence[Gold]) -> Scorer:
        """Return the scorer of sets of phrases."""
        return _SetScorer(golds)

    def baselines(self, golds: Sequence[Gold], trained: Counter[str]) -> dict[str, list[str]]:
        """Give the commonest face."""
        return {"majority": [majority(golds, trained)] * len(golds)}


def parse_phrases(reply: str) -> frozenset[str]:
    """Split a reply at semicolons, commas, full stops and line ends; a known phrase gets its proper form."""
    parts = (" ".join(part.lower().split()) for part in re.split(r"[;,.\n；]", reply))
    return frozenset(known().get(part, part) for part in parts if part)


class _SetScorer:
    """Count phrases. Columns: hits, predicted, gold, the record's own F1, exact, unparsable, 1.

    A phrase that no table knows is predicted and wrong, also in the gold of authors' files.
    """

    def __init__(self, golds: Sequence[Gold]) -> None:
        self._gold = [parse_phrases(str(gold["answer"])) for gold in golds]

    @property
    def size(self) -> int:
        """Return the number of records."""
        return len(self._gold)

    def counts(self, replies: Sequence[str]) -> Numbers:
        """Return an (n, 7) array."""
        expect(replies, self.size)
        rows = []
        for gold, reply in zip(self._gold, replies, strict=True):
            said = parse_phrases(reply)
            hits = len(gold & said)
            own = 2.0 * hits / (len(gold) + len(said)) if gold or said else 1.0
            unread = not said & (gold | set(known().values()))
            rows.append((hits, len(said), len(gold), own, gold == said, unread, 1))
        return np.array(rows, dtype=np.float64)

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Return micro precision, recall and F1 over phrases, the mean F1 of records, exact and unparsable shares."""
        hits, said, gold, own, exact, unread, size = np.moveaxis(totals, -1, 0)
        return {
            "precision": ratio(hits, said),
            "recall": ratio(hits, gold),
            "f1": f1(hits, said, gold),
            "record_f1": ratio(own, size),
            "exact_match": ratio(exact, size),
            "unparsable": ratio(unread, size),
        }

    def confusion(self, totals: Numbers) -> Confusion | None:
        """Return None: sets of phrases have no confusion matrix."""
        return None


TASK = _Fer()


@cache
def tables() -> dict[str, Any]:
    """Return the data file: ``threshold``, ``phrases`` by unit, units by ``emotions``, a phrase for ``still`` faces."""
    return dict(json.loads(resources.files(__package__).joinpath("action_units.json").read_text("utf-8")))


def phrases(units: Mapping[str, float], emotion: str) -> tuple[str, ...]:
    """Return the phrases of the units that are active at the peak and belong to the emotion, by unit number.

    ``units`` maps ``"AU01"`` to its intensity, 0..5. A neutral face gives the one phrase for a still face.
    """
    data = tables()
    if not data["emotions"][emotion]:
        return (data["still"],)
    active = (unit for unit in sorted(data["emotions"][emotion]) if units.get(unit, 0.0) >= data["threshold"])
    return tuple(data["phrases"][unit] for unit in active)


@cache
def known() -> dict[str, str]:
    """Map every phrase in lower case to its proper form."""
    data = tables()
    return {phrase.lower(): phrase for phrase in (*data["phrases"].values(), data["still"])}
