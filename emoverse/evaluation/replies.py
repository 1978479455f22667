"""Collect an engine's replies to a test set and to its controls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from emoverse.config import EvaluateParams
from emoverse.errors import UserError
from emoverse.evaluation.intervals import posterior
from emoverse.inference.engine import Engine
from emoverse.inference.test_sets import AmtRow, EvaluationSet
from emoverse.tasks.base import mute

Answered = tuple[NDArray[np.float64], NDArray[np.int64]]


@dataclass(frozen=True)
class Replies:
    """A model's replies to each row of a test set, in its order.

    ``probabilities`` is (n, answers), None for an open task or when answers were generated. ``controls`` maps a
    control to its replies, ``generated`` each row of the agreement sample to the reply of greedy decoding.
    """

    replies: list[str]
    probabilities: NDArray[np.float64] | None = None
    controls: dict[str, list[str]] = field(default_factory=dict)
    generated: dict[int, str] = field(default_factory=dict)


def collect(engine: Engine, test: EvaluationSet, params: EvaluateParams) -> Replies:
    """Ask every row of a test set: by likelihood if its answers are a closed list, else by generation."""
    rows, answers = list(test.rows), test.answers
    if not answers:
        return Replies(engine.generate(rows, params.max_new_tokens))
    controls: dict[str, list[AmtRow]] = {name: [CONTROLS[name](row) for row in rows] for name in params.controls}
    if params.closed == "generation":
        replies = {name: engine.generate(changed, params.max_new_tokens) for name, changed in controls.items()}
        return Replies(engine.generate(rows, params.max_new_tokens), None, replies)
    likelihoods, chosen = _finite(engine.score_answers(rows, answers), test)
    replies = {
        name: _texts(_finite(engine.score_answers(changed, answers), test)[1], answers)
        for name, changed in controls.items()
    }
    sample = agreement_sample(len(rows), params)
    generated = engine.generate([rows[i] for i in sample], params.max_new_tokens)
    return Replies(_texts(chosen, answers), posterior(likelihoods), replies, dict(zip(sample, generated, strict=True)))


def _finite(answered: Answered, test: EvaluationSet) -> Answered:
    """Return likelihoods and choices unchanged; raise UserError for a likelihood that is not a finite number."""
    bad = np.flatnonzero(~np.isfinite(answered[0]).all(axis=1))
    if len(bad):
        problem = f"the model gives likelihoods that are not finite numbers, in {len(bad)} of {len(test.rows)} rows"
        remedy = "look for NaN or Inf in the model's weights, and try another precision"
        raise UserError(problem, place=f"{test.name}: {test.ids[bad[0]]}", remedy=remedy)
    return answered


def agreement_sample(n: int, params: EvaluateParams) -> list[int]:
    """Draw which rows are also answered by generation, in ascending order."""
    if n <= params.agreement:
        return list(range(n))
    rng = np.random.default_rng(params.seed)
    return sorted(int(i) for i in rng.choice(n, params.agreement, replace=False))


def _texts(chosen: NDArray[np.int64], answers: tuple[str, ...]) -> list[str]:
    return [answers[i] for i in chosen]


def prediction_rows(test: EvaluationSet, replies: Replies) -> list[dict[str, Any]]:
    """Return one row per record: ``channel``, ``labels`` and ``response`` as in ms-swift, ``gold``, our own keys."""
    rows: list[dict[str, Any]] = []
    for i, (source, reply) in enumerate(zip(test.rows, replies.replies, strict=True)):
        gold = source["gold"]
        row = {"channel": source["channel"], "labels": gold["answer"], "response": reply, "gold": gold}
        if replies.probabilities is not None:
            shares = (round(float(p), 4) + 0.0 for p in replies.probabilities[i])
            row["probabilities"] = dict(zip(test.answers, shares, strict=True))
        if replies.controls:
            row["controls"] = {name: texts[i] for name, texts in replies.controls.items()}
        if i in replies.generated:
            row["generated"] = replies.generated[i]
        rows.append(row)
    return rows


def text_only(row: Mapping[str, Any]) -> AmtRow:
    """Return the row with mid-grey frames: only the transcript is left."""
    blank = {kind: [f"{reference}#blank" for reference in row.get(kind, ())] for kind in ("videos", "images")}
    return {**row, **blank}


def face_only(row: Mapping[str, Any]) -> AmtRow:
    """Return the row with ``...`` for the transcript: only the clip is left.

    Raises:
        ValueError: The row does not quote exactly one transcript.
    """
    muted = [mute(message["content"]) if message["role"] == "user" else None for message in row["messages"]]
    if (count := sum(text is not None for text in muted)) != 1:
        raise ValueError(f"{row['channel']}: {count} transcripts to blank, expected 1")
    pairs = zip(row["messages"], muted, strict=True)
    return {**row, "messages": [message if text is None else {**message, "content": text} for message, text in pairs]}


CONTROLS: Final[dict[str, Callable[[Mapping[str, Any]], AmtRow]]] = {"text-only": text_only, "face-only": face_only}


def trivial_scores(amt: Path) -> dict[str, dict[str, float]]:
    """Return the headline score of each trivial predictor by test set, from build-amt's ``baselines.json``.

    Its majority is that of the train rows, which a predictor can know.
    """
    tree = json.loads((amt / "baselines.json").read_text("utf-8"))
    return {
        name: {kind: float(row["scores"][test["headline"]]) for kind, row in test["baselines"].items()}
        for name, test in tree.items()
    }
