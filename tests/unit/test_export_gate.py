"""A model whose scores are below the floor of params.yaml is not exported."""

from typing import Any

import pytest

from emoverse.errors import UserError
from emoverse.export.export import require_floor

METRICS: dict[str, Any] = {
    "mer": {"weighted_f1": 0.62, "accuracy": 0.6, "baseline": 0.3},
    "ecpe": {"f1": float("nan")},
    "tests": {"meld-mer": {}},
}


def test_scores_at_or_above_the_floor_pass() -> None:
    require_floor(METRICS, {"mer": {"weighted_f1": 0.62, "accuracy": 0.5}})
    require_floor(METRICS, {})
    require_floor(None, {})


def test_every_score_below_its_floor_is_named_with_both_numbers() -> None:
    with pytest.raises(UserError) as caught:
        require_floor(METRICS, {"mer": {"weighted_f1": 0.7, "accuracy": 0.65}})
    assert "mer weighted_f1 is 0.6200, below 0.7; mer accuracy is 0.6000, below 0.65" in str(caught.value)
    assert "export.floor" in str(caught.value)


def test_a_score_that_is_no_number_does_not_pass() -> None:
    with pytest.raises(UserError, match="ecpe f1 is nan, below 0"):
        require_floor(METRICS, {"ecpe": {"f1": 0.0}})


@pytest.mark.parametrize(
    ("floor", "words"),
    [
        ({"mre": {"weighted_f1": 0.1}}, "no scores of task 'mre'; did you mean 'mer'"),
        ({"mer": {"wieghted_f1": 0.1}}, "no score 'wieghted_f1'; did you mean 'weighted_f1'"),
        ({"tests": {"meld-mer": 0.1}}, "no scores of task 'tests'"),
    ],
)
def test_a_floor_for_what_is_not_scored_is_refused(floor: dict[str, dict[str, float]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        require_floor(METRICS, floor)


def test_a_floor_without_scores_is_refused() -> None:
    with pytest.raises(UserError, match="no scores to compare with it"):
        require_floor(None, {"mer": {"weighted_f1": 0.1}})
