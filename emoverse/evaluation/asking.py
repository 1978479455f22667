"""Put a test set's questions to an engine, with the controls that hide the words or the face."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emoverse.evaluation.calibration import posterior
from emoverse.evaluation.controls import CONTROLS
from emoverse.inference.load import Answers
from emoverse.inference.testsets import EvaluationSet, Row
from emoverse.params import EvaluateParams


@dataclass(frozen=True)
class Replies:
    """What a model replied to each row of a test set, in its order.

    ``probabilities`` is (n, answers), None for an open task or where answers were generated. ``controls`` maps a
    control to its replies; ``generated`` the rows of the agreement sample to what greedy decoding said.
    """

    replies: list[str]
    probabilities: NDArray[np.float64] | None = None
    controls: dict[str, list[str]] = field(default_factory=dict)
    generated: dict[int, str] = field(default_factory=dict)


def ask(engine: Answers, one: EvaluationSet, params: EvaluateParams) -> Replies:
    """Ask every row of a test set: by likelihood where its answers are a closed list, else by generation."""
    rows, answers = list(one.rows), one.answers
    if not answers:
        return Replies(engine.generate(rows, params.max_new_tokens))
    controls: dict[str, list[Row]] = {name: [CONTROLS[name](row) for row in rows] for name in params.controls}
    if params.closed == "generation":
        told = {name: engine.generate(asked, params.max_new_tokens) for name, asked in controls.items()}
        return Replies(engine.generate(rows, params.max_new_tokens), None, told)
    found, chosen = engine.judged(rows, answers)
    told = {name: _words(engine.judged(asked, answers)[1], answers) for name, asked in controls.items()}
    sample = agreement_sample(len(rows), params)
    generated = engine.generate([rows[i] for i in sample], params.max_new_tokens)
    return Replies(_words(chosen, answers), posterior(found), told, dict(zip(sample, generated, strict=True)))


def agreement_sample(n: int, params: EvaluateParams) -> list[int]:
    """Draw which rows are also answered by generation, in ascending order."""
    if n <= params.agreement:
        return list(range(n))
    rng = np.random.default_rng(params.seed)
    return sorted(int(i) for i in rng.choice(n, params.agreement, replace=False))


def _words(chosen: NDArray[np.int64], answers: tuple[str, ...]) -> list[str]:
    return [answers[i] for i in chosen]


def prediction_rows(one: EvaluationSet, found: Replies) -> list[dict[str, Any]]:
    """Return one row a record: ``channel``, ``labels`` and ``response`` as ms-swift writes them, ``gold``, and ours."""
    rows: list[dict[str, Any]] = []
    for i, (source, reply) in enumerate(zip(one.rows, found.replies, strict=True)):
        gold = source["gold"]
        row = {"channel": source["channel"], "labels": gold["answer"], "response": reply, "gold": gold}
        if found.probabilities is not None:
            shares = (round(float(p), 4) + 0.0 for p in found.probabilities[i])
            row["probabilities"] = dict(zip(one.answers, shares, strict=True))
        if found.controls:
            row["controls"] = {name: replies[i] for name, replies in found.controls.items()}
        if i in found.generated:
            row["generated"] = found.generated[i]
        rows.append(row)
    return rows
