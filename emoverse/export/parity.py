"""Compare an exported model with the one it was made from, on real questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from emoverse.errors import UserError
from emoverse.inference.encode import Row
from emoverse.inference.engine import Engine
from emoverse.inference.tree import left_padded, prompt_mask

LAST: Final = 64  # columns of logits compared in each prompt; all of them would be gigabytes with a real vocabulary
TOKENS: Final = 16  # greedy tokens compared


@dataclass(frozen=True)
class Parity:
    """How far a candidate's logits are from the reference's.

    ``largest_absolute`` is the largest difference of one logit, ``largest_relative`` that over the largest logit of
    the same row; ``top1_agreement`` the share of positions with the same likeliest token; ``greedy_equal`` the share
    of rows whose greedy tokens are all equal, ``answers_equal`` that of closed questions with the same likeliest answer
    (1 where there is none).
    """

    rows: int
    positions: int
    largest_absolute: float
    largest_relative: float
    top1_agreement: float
    greedy_equal: float
    answers_equal: float

    def require(self, tolerance: float) -> None:
        """Raise UserError, with the numbers, when the candidate is no faithful copy of the reference."""
        # "not <=" and not ">": a logit that is not a number must fail, too.
        if not self.largest_absolute <= tolerance or self.greedy_equal < 1.0 or self.answers_equal < 1.0:
            problem = (
                f"the exported model differs from the original: largest logit difference {self.largest_absolute:.1e}"
                f" (tolerance {tolerance:.1e}), equal greedy replies {self.greedy_equal:.3f}, equal answers"
                f" {self.answers_equal:.3f} of {self.rows} rows"
            )
            raise UserError(problem, place="parity", remedy="report it, or raise export.tolerance in params.yaml")

    def as_json(self, tolerance: float) -> dict[str, Any]:
        """Return the report, differences to two digits: the last ones depend on the machine."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**{k: float(f"{v:.1e}") if "largest" in k else v for k, v in values.items()}, "tolerance": tolerance}


def compare(
    reference: Engine, candidate: Engine, rows: Sequence[Row], answers: Mapping[str, Sequence[str]] | None = None
) -> Parity:
    """Compare two engines on rows; ``answers`` maps a row's channel to the allowed answers of a closed question."""
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
    return Parity(
        rows=len(rows),
        positions=positions,
        largest_absolute=absolute,
        largest_relative=relative,
        top1_agreement=same / positions,
        greedy_equal=sum(equal) / len(equal),
        answers_equal=_answers_equal(reference, candidate, rows, answers or {}),
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


def _answers_equal(
    reference: Engine, candidate: Engine, rows: Sequence[Row], answers: Mapping[str, Sequence[str]]
) -> float:
    kinds = sorted({tuple(answers[str(row["channel"])]) for row in rows if answers.get(str(row["channel"]))})
    equal: list[bool] = []
    for kind in kinds:
        asked = [row for row in rows if tuple(answers.get(str(row["channel"])) or ()) == kind]
        both = [engine.likelihoods(asked, kind).argmax(axis=1) for engine in (reference, candidate)]
        equal += [bool(one == other) for one, other in zip(*both, strict=True)]
    return sum(equal) / len(equal) if equal else 1.0
