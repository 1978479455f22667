"""Ask an engine for the replies to a test set, and to its controls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from emoverse.config import EvaluateParams
from emoverse.evaluation.intervals import posterior
from emoverse.inference.engine import Engine
from emoverse.inference.test_sets import AmtRow, EvaluationSet
from emoverse.tasks.base import mute


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


def ask(engine: Engine, one: EvaluationSet, params: EvaluateParams) -> Replies:
    """Ask every row of a test set: by likelihood where its answers are a closed list, else by generation."""
    rows, answers = list(one.rows), one.answers
    if not answers:
        return Replies(engine.generate(rows, params.max_new_tokens))
    controls: dict[str, list[AmtRow]] = {name: [CONTROLS[name](row) for row in rows] for name in params.controls}
    if params.closed == "generation":
        told = {name: engine.generate(asked, params.max_new_tokens) for name, asked in controls.items()}
        return Replies(engine.generate(rows, params.max_new_tokens), None, told)
    found, chosen = engine.score_answers(rows, answers)
    told = {name: _words(engine.score_answers(asked, answers)[1], answers) for name, asked in controls.items()}
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


def text_only(row: Mapping[str, Any]) -> AmtRow:
    """Return the row with mid-grey frames: what is left is the words."""
    blank = {kind: [f"{reference}#blank" for reference in row.get(kind, ())] for kind in ("videos", "images")}
    return {**row, **blank}


def face_only(row: Mapping[str, Any]) -> AmtRow:
    """Return the row with ``...`` for the words: what is left is the clip; raise ValueError when it shows no words."""
    asked = [mute(message["content"]) if message["role"] == "user" else None for message in row["messages"]]
    if (found := sum(text is not None for text in asked)) != 1:
        raise ValueError(f"{row['channel']}: found {found} transcripts to blank")
    pairs = zip(row["messages"], asked, strict=True)
    return {**row, "messages": [message if text is None else {**message, "content": text} for message, text in pairs]}


CONTROLS: Final[dict[str, Callable[[Mapping[str, Any]], AmtRow]]] = {"text-only": text_only, "face-only": face_only}


def trivial_scores(amt: Path) -> dict[str, dict[str, float]]:
    """Return the headline score of each trivial predictor by test set, from build-amt's ``baselines.json``.

    It knows the answers of the train rows, so its majority is what a predictor could know.
    """
    tree = json.loads((amt / "baselines.json").read_text("utf-8"))
    return {
        name: {kind: float(one["scores"][found["headline"]]) for kind, one in found["baselines"].items()}
        for name, found in tree.items()
    }
