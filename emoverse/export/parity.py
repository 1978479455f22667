"""Compare an exported model with its original on test questions."""

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
from emoverse.inference.test_sets import AmtRow, EvaluationSet, evenly_spaced, read_sets, scores_of
from emoverse.prompt import Row, Settings
from emoverse.tasks import mute, tasks

COLUMNS: Final = 64  # last logit columns compared of each prompt; all would be gigabytes with a real vocabulary
TOKENS: Final = 16  # greedy tokens compared
ROWS_PER_SET: Final = 4  # rows whose logits are compared
MAX_NEW_TOKENS: Final = 64  # without an evaluation that states the length of a reply
PLACEHOLDER: Final = "{words}"
Replies = Mapping[str, Sequence[str]]  # of each test set, in the order of its rows


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far a candidate's logits and replies are from the reference's.

    ``largest_absolute`` is the largest difference of a logit, ``largest_relative`` that over the largest logit of the
    same row; ``top1_agreement`` the share of positions with the same most likely token; ``greedy_equal`` the share of
    rows whose greedy tokens are all equal, ``answers_equal`` that of closed questions with the same answer (1 without
    any). ``scores`` are each test set's headline score, the reference's and the candidate's, over ``scored`` rows;
    ``score_difference`` is the largest difference of the two.
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
        """Raise UserError naming each number outside its tolerance."""
        # "not <=" instead of ">": a NaN must fail too
        failed = [
            f"{name} {value:.2g} (tolerance {limit:.2g})"
            for name, value, limit in (
                ("largest logit difference", self.largest_absolute, tolerance.absolute),
                ("largest relative logit difference", self.largest_relative, tolerance.relative),
                ("score difference", self.score_difference, tolerance.score),
            )
            if not value <= limit
        ]
        failed += [
            f"{name} {value:.3f} (at least {limit:.3f})"
            for name, value, limit in (
                ("equal most likely tokens", self.top1_agreement, tolerance.top1),
                ("equal greedy replies", self.greedy_equal, tolerance.greedy),
                ("equal answers", self.answers_equal, tolerance.answers),
            )
            if not value >= limit
        ]
        if failed:
            problem = f"the exported {precision} model differs from the original: {', '.join(failed)}"
            remedy = f"report it, or change export.tolerance.{precision} in params.yaml"
            raise UserError(problem, place="parity", remedy=remedy)

    def as_json(self, tolerance: ToleranceParams) -> dict[str, Any]:
        """Return the report, differences to two digits: the last ones depend on the machine."""
        report = {key: _rounded(value) if "largest" in key else value for key, value in asdict(self).items()}
        scores = {name: [round(score, 4) for score in pair] for name, pair in self.scores.items()}
        report |= {"score_difference": _rounded(self.score_difference), "scores": scores}
        return {**report, "tolerance": plain(tolerance)}


def _rounded(value: float) -> float:
    return float(f"{value:.1e}")


def compare(
    reference: Engine,
    candidate: Engine,
    rows: Sequence[Row],
    sets: Sequence[EvaluationSet] = (),
    known: tuple[Replies, Replies] = ({}, {}),
) -> Parity:
    """Compare two engines.

    Args:
        reference: The original.
        candidate: The export.
        rows: Rows whose logits and greedy tokens are compared.
        sets: Test sets whose replies are compared.
        known: Both engines' replies to ``sets``.
    """
    absolute, relative, same, positions = 0.0, 0.0, 0, 0
    for row in rows:
        expected, actual = logits(reference, row), logits(candidate, row)
        gap = float(np.abs(expected - actual).max())
        absolute = max(absolute, gap) if np.isfinite(gap) else float("nan")
        relative = max(relative, gap / float(np.abs(expected).max()))
        same += int((expected.argmax(-1) == actual.argmax(-1)).sum())
        positions += len(expected)
        if np.isnan(absolute):
            break
    pairs = zip(reference.greedy_tokens(rows, TOKENS), candidate.greedy_tokens(rows, TOKENS), strict=True)
    equal = [expected == actual for expected, actual in pairs]
    scores = {item.name: (_headline(item, known[0]), _headline(item, known[1])) for item in sets}
    closed = [pair for item in sets if item.answers for pair in zip(*(k[item.name] for k in known), strict=True)]
    return Parity(
        rows=len(rows),
        positions=positions,
        largest_absolute=absolute,
        largest_relative=relative,
        top1_agreement=same / positions,
        greedy_equal=sum(equal) / len(equal),
        answers_equal=sum(expected == actual for expected, actual in closed) / len(closed) if closed else 1.0,
        scored=sum(len(item.rows) for item in sets),
        score_difference=max((abs(expected - actual) for expected, actual in scores.values()), default=0.0),
        scores=scores,
    )


def logits(engine: Engine, row: Row) -> NDArray[np.float64]:
    """Return the logits (columns, vocabulary) at the last columns of a row's prompt."""
    (item,) = next(engine.batches([row]))
    ids, lengths = left_padded([item.ids], engine.encoder.settings.pad)
    width = ids.shape[1]
    mask, positions = prompt_mask(lengths, width)
    columns = np.arange(max(0, width - COLUMNS), width)
    features = engine.backend.concatenate([item.features])
    result, _ = engine.backend.decode(ids, features, mask, positions, None, columns)
    engine.check_finite(result, [item])
    row_logits: NDArray[np.float64] = engine.backend.to_numpy(result)[0]
    return row_logits


def replies(engine: Engine, sets: Sequence[EvaluationSet], max_new_tokens: int) -> Replies:
    """Return an engine's reply to every row of test sets: the answer to a closed question, else generated text."""
    result: dict[str, list[str]] = {}
    for item in sets:
        if item.answers:
            result[item.name] = [item.answers[i] for i in engine.score_answers(item.rows, item.answers)[1]]
        else:
            result[item.name] = engine.generate(item.rows, max_new_tokens)
    return result


def _headline(test_set: EvaluationSet, known: Replies) -> float:
    name, scores = scores_of(test_set, known[test_set.name])
    return scores[name]


def prompt_templates(rows: Sequence[AmtRow], answers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return, by corpus and task, the allowed answers, an example's messages and the question's template.

    ``template`` is the question with PLACEHOLDER for the transcript; null where more than the transcript changes, as
    in a conversation. ``media`` is video (the clip's uniform frames) or image (one still).
    """
    templates: dict[str, Any] = {}
    for row in rows:
        corpus, task_name = str(row.get("corpus", "any")), str(row.get("task", "any"))
        messages = [message for message in row["messages"] if message["role"] != "assistant"]
        entry = {
            "answers": list(answers.get(str(row["channel"]), ())),
            "corpus": corpus,
            "media": "video" if row.get("videos") else "image",
            "messages": messages,
            "task": task_name,
            "template": _template(str(messages[-1]["content"]), task_name),
        }
        templates.setdefault(f"{corpus}-{task_name}", entry)
    return templates


def _template(question: str, task_name: str) -> str | None:
    definition = tasks().get(task_name)
    constant = definition is not None and definition.shows == "utterance"  # without a transcript it never changes
    return mute(question, PLACEHOLDER) or (question if constant else None)


def media_settings(validated: Iterable[Source]) -> dict[str, Any] | None:
    """Return the parameters that made the frames (``media`` of params.yaml), None without inputs.

    Raises:
        UserError: Two outputs of validate were made with different parameters.
    """
    settings = [source.manifest["params"].get("media") for source in validated]
    if any(item != settings[0] for item in settings):
        problem = "made with different media parameters"
        raise UserError(problem, place="--validated", remedy="validate every corpus again with the same params.yaml")
    return settings[0] if settings else None


def generation_settings(scores: Source | None) -> dict[str, int]:
    """Return how replies are generated: greedily, with the length limit used when the model was evaluated."""
    limit = scores.manifest["params"].get("max_new_tokens") if scores else None
    return {"max_new_tokens": int(limit or MAX_NEW_TOKENS)}


def sampled_sets(amt: Path, limit: int) -> list[EvaluationSet]:
    """Return every test set of an AMT folder, cut to ``limit`` evenly spaced rows."""
    return [replace(item, rows=tuple(evenly_spaced(item.rows, limit))) for item in read_sets(amt)]


def sample_rows(sets: Sequence[EvaluationSet]) -> list[AmtRow]:
    """Return a few rows of every test set."""
    return [row for item in sets for row in evenly_spaced(item.rows, ROWS_PER_SET)]


def synthetic_rows(settings: Settings) -> tuple[list[AmtRow], Mapping[str, NDArray[np.uint8]]]:
    """Return questions about noise and its frames, for a model exported without a dataset."""
    rng = np.random.default_rng(0)
    frames: dict[str, NDArray[np.uint8]] = {}
    rows: list[AmtRow] = []
    for number, count in enumerate((1, 4, 8)):
        name = f"clip:noise/{number}"
        frames[name] = rng.integers(0, 256, (count, *settings.size, 3), dtype=np.uint8)
        question = f"<video>The person says: '{'word ' * number}' What do they feel?"
        rows.append({"messages": [{"role": "user", "content": question}], "videos": [name], "channel": name})
    return rows, frames
