"""Compare an exported model with the one it was made from, on real questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from emoverse.artifacts.manifest import Source
from emoverse.config import ToleranceParams, plain
from emoverse.errors import UserError
from emoverse.inference.engine import Engine, left_padded, prompt_mask
from emoverse.inference.test_sets import AmtRow, EvaluationSet, read_sets
from emoverse.prompt.encode import Row
from emoverse.prompt.model_settings import Settings
from emoverse.tasks import task, tasks
from emoverse.tasks.base import mute

LAST: Final = 64  # columns of logits compared in each prompt; all of them would be gigabytes with a real vocabulary
TOKENS: Final = 16  # greedy tokens compared
Replies = Mapping[str, Sequence[str]]  # of each test set, in the order of its rows


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far a candidate's logits are from the reference's.

    ``largest_absolute`` is the largest difference of one logit, ``largest_relative`` that over the largest logit of
    the same row; ``top1_agreement`` the share of positions with the same likeliest token; ``greedy_equal`` the share
    of rows whose greedy tokens are all equal, ``answers_equal`` that of closed questions with the same answer (1 where
    there is none). ``scores`` are each test set's headline score, the reference's and the candidate's, over ``scored``
    rows; ``score_difference`` is the largest difference of the two.
    """

    rows: int
    positions: int
    largest_absolute: float
    largest_relative: float
    top1_agreement: float
    greedy_equal: float
    answers_equal: float
    scored: int = 0
    score_difference: float = 0.0
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)

    def require(self, tolerance: ToleranceParams, precision: str = "fp32") -> None:
        """Raise UserError, naming each number outside its tolerance, when the candidate is no faithful copy."""
        # "not <=" and not ">": a logit that is not a number must fail, too.
        wrong = [
            f"{what} {have:.2g} (tolerance {most:.2g})"
            for what, have, most in (
                ("largest logit difference", self.largest_absolute, tolerance.absolute),
                ("largest relative logit difference", self.largest_relative, tolerance.relative),
                ("score difference", self.score_difference, tolerance.score),
            )
            if not have <= most
        ]
        wrong += [
            f"{what} {have:.3f} (at least {least:.3f})"
            for what, have, least in (
                ("equal likeliest tokens", self.top1_agreement, tolerance.top1),
                ("equal greedy replies", self.greedy_equal, tolerance.greedy),
                ("equal answers", self.answers_equal, tolerance.answers),
            )
            if not have >= least
        ]
        if wrong:
            problem = f"the exported {precision} model differs from the original: {', '.join(wrong)}"
            remedy = f"report it, or change export.tolerance.{precision} in params.yaml"
            raise UserError(problem, place="parity", remedy=remedy)

    def as_json(self, tolerance: ToleranceParams) -> dict[str, Any]:
        """Return the report, differences to two digits: the last ones depend on the machine."""
        told = {k: _short(v) if "largest" in k else v for k, v in asdict(self).items()}
        scores = {name: [round(score, 4) for score in pair] for name, pair in self.scores.items()}
        told |= {"score_difference": _short(self.score_difference), "scores": scores}
        return {**told, "tolerance": plain(tolerance)}


def _short(value: float) -> float:
    return float(f"{value:.1e}")


def compare(
    reference: Engine,
    candidate: Engine,
    rows: Sequence[Row],
    sets: Sequence[EvaluationSet] = (),
    known: tuple[Replies, Replies] = ({}, {}),
) -> Parity:
    """Compare two engines' logits and greedy tokens on rows, and their replies (``known``) to whole test sets."""
    absolute, relative, same, positions = 0.0, 0.0, 0, 0
    for row in rows:
        one, other = logits(reference, row), logits(candidate, row)
        gap = float(np.abs(one - other).max())
        absolute = max(absolute, gap) if np.isfinite(gap) else float("nan")
        relative = max(relative, gap / float(np.abs(one).max()))
        same += int((one.argmax(-1) == other.argmax(-1)).sum())
        positions += len(one)
        if np.isnan(absolute):
            break
    pairs = zip(reference.greedy_tokens(rows, TOKENS), candidate.greedy_tokens(rows, TOKENS), strict=True)
    equal = [one == other for one, other in pairs]
    scores = {one.name: (_score(one, known[0]), _score(one, known[1])) for one in sets}
    closed = [pair for one in sets if one.answers for pair in zip(*(k[one.name] for k in known), strict=True)]
    return Parity(
        rows=len(rows),
        positions=positions,
        largest_absolute=absolute,
        largest_relative=relative,
        top1_agreement=same / positions,
        greedy_equal=sum(equal) / len(equal),
        answers_equal=sum(one == other for one, other in closed) / len(closed) if closed else 1.0,
        scored=sum(len(one.rows) for one in sets),
        score_difference=max((abs(one - other) for one, other in scores.values()), default=0.0),
        scores=scores,
    )


def logits(engine: Engine, row: Row) -> NDArray[np.float64]:
    """Return the logits (columns, vocabulary) at the last columns of one row's prompt."""
    (asked,) = next(engine.asked([row]))
    ids, lengths = left_padded([asked.ids], engine.encoder.settings.pad)
    width = ids.shape[1]
    mask, places = prompt_mask(lengths, width)
    columns = np.arange(max(0, width - LAST), width)
    found, _ = engine.backend.decode(ids, engine.backend.join([asked.features]), mask, places, None, columns)
    one: NDArray[np.float64] = engine.backend.numbers(found)[0]
    return one


def replies(engine: Engine, sets: Sequence[EvaluationSet], max_new_tokens: int) -> Replies:
    """Return an engine's reply to every row of test sets: the answer of a closed question, else what it generates."""
    found: dict[str, list[str]] = {}
    for one in sets:
        if one.answers:
            found[one.name] = [one.answers[i] for i in engine.judged(one.rows, one.answers)[1]]
        else:
            found[one.name] = engine.generate(one.rows, max_new_tokens)
    return found


def _score(one: EvaluationSet, known: Replies) -> float:
    asked = task(one.task)
    scorer = asked.scorer(one.golds)
    return float(scorer.scores(scorer.counts(known[one.name]).sum(axis=0))[asked.headline])


WORDS: Final = "{words}"
MAX_NEW_TOKENS: Final = 64  # where no evaluation says how long a reply may be


def prompts(rows: Sequence[AmtRow], answers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return, by corpus and task, the allowed answers, one row's messages, and their pattern.

    ``template`` is the question with ``{words}`` for the person's; null where words are not all that changes, as in a
    conversation. ``media`` is video (the clip's uniform frames) or image (its one still).
    """
    found: dict[str, Any] = {}
    for row in rows:
        name = f"{row.get('corpus', 'any')}-{row.get('task', 'any')}"
        asked = [message for message in row["messages"] if message["role"] != "assistant"]
        entry = {
            "answers": list(answers.get(str(row["channel"]), ())),
            "corpus": str(row.get("corpus", "any")),
            "media": "video" if row.get("videos") else "image",
            "messages": asked,
            "task": str(row.get("task", "any")),
            "template": _template(str(asked[-1]["content"]), str(row.get("task", "any"))),
        }
        found.setdefault(name, entry)
    return found


def _template(question: str, task: str) -> str | None:
    known = tasks().get(task)
    alone = known is not None and known.shows == "utterance"  # a question that quotes nobody is always the same
    return mute(question, WORDS) or (question if alone else None)


def frames_made(sources: Iterable[Source]) -> dict[str, Any] | None:
    """Return the parameters that made the frames (``media`` of params.yaml), None where no input tells.

    Raises UserError when two outputs of validate were made differently: no caller could make both.
    """
    told = [source.manifest["params"].get("media") for source in sources]
    if any(one != told[0] for one in told):
        problem = "they were made with different parameters of media"
        raise UserError(problem, place="--validated", remedy="validate every corpus again with the same params.yaml")
    return told[0] if told else None


def generation(scores: Source | None) -> dict[str, int]:
    """Return how replies are generated: greedily, and as long as they were when the model was scored."""
    told = scores.manifest["params"].get("max_new_tokens") if scores else None
    return {"max_new_tokens": int(told or MAX_NEW_TOKENS)}


PER_SET: Final = 4  # rows whose logits are compared


def asked_sets(amt: Path, most: int) -> list[EvaluationSet]:
    """Return every test set of an AMT folder, cut to ``most`` rows evenly spread over it."""
    return [replace(one, rows=tuple(_spread(one.rows, most))) for one in read_sets(amt)]


def asked_rows(sets: Sequence[EvaluationSet]) -> list[AmtRow]:
    """Return a few rows of every test set."""
    return [row for one in sets for row in _spread(one.rows, PER_SET)]


def _spread(rows: Sequence[AmtRow], most: int) -> list[AmtRow]:
    return [rows[i] for i in sorted({round(i) for i in np.linspace(0, len(rows) - 1, most)})]


def made_up_rows(settings: Settings) -> tuple[list[AmtRow], Mapping[str, NDArray[np.uint8]]]:
    """Return questions about noise, and its frames, for a model exported without a dataset at hand."""
    noise = np.random.default_rng(0)
    frames: dict[str, NDArray[np.uint8]] = {}
    rows: list[AmtRow] = []
    for number, count in enumerate((1, 4, 8)):
        name = f"clip:noise/{number}"
        frames[name] = noise.integers(0, 256, (count, *settings.size, 3), dtype=np.uint8)
        question = f"<video>The person says: '{'word ' * number}' What do they feel?"
        rows.append({"messages": [{"role": "user", "content": question}], "videos": [name], "channel": name})
    return rows, frames
