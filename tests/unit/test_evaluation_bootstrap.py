"""Intervals: what is resampled, and that it is what the textbook says."""

from __future__ import annotations

import numpy as np
import pytest

from emoverse.evaluation import scoring as bootstrap
from emoverse.evaluation.scoring import group_sums, interval, resampled, seed_of


def test_records_of_one_group_are_added_up_in_order_of_appearance():
    counts = np.array([[1.0, 0], [2, 1], [4, 0]])
    assert group_sums(counts, ["b", "a", "b"]).tolist() == [[5.0, 0.0], [2.0, 1.0]]


def test_records_without_groups_stay_as_they_are():
    counts = np.array([[1.0], [2.0]])
    assert group_sums(counts, ["x", "y"]) is counts


def test_every_resample_draws_as_many_groups_as_there_are():
    totals = resampled(np.ones((50, 1)), 200, seed=1)
    assert (totals == 50).all()


def test_resampling_in_chunks_draws_the_same(monkeypatch):
    counts = np.random.default_rng(0).random((40, 3))
    whole = resampled(counts, 30, seed=3)
    monkeypatch.setattr(bootstrap, "_CELLS", 80)
    np.testing.assert_allclose(resampled(counts, 30, seed=3), whole)


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(0).normal(5.0, 2.0, (400, 1))
    low, high = interval(resampled(values, 4000, seed=0)[:, 0] / 400)
    spread = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - spread, abs=0.02)
    assert high == pytest.approx(values.mean() + spread, abs=0.02)


def test_dependent_records_give_a_wider_interval_when_resampled_by_group():
    right = np.repeat(np.random.default_rng(0).random(30) < 0.5, 10)[:, None].astype(float)
    groups = [str(i // 10) for i in range(300)]
    alone = interval(resampled(right, 2000, seed=0)[:, 0] / 300)
    grouped = interval(resampled(group_sums(right, groups), 2000, seed=0)[:, 0] / 300)
    assert grouped[1] - grouped[0] > 2.5 * (alone[1] - alone[0])


def test_no_resamples_give_no_interval():
    assert np.isnan(interval(resampled(np.ones((3, 1)), 0, seed=0)[:, 0])).all()


def test_groups_of_another_length_are_our_mistake():
    with pytest.raises(ValueError, match="2 rows of counts for 1 groups"):
        group_sums(np.ones((2, 1)), ["a"])


def test_test_sets_of_equal_size_do_not_share_their_resamples():
    counts = np.arange(20.0)[:, None]
    sets = [[f"{corpus}/dia{i}" for i in range(20)] for corpus in ("meld", "ecf", "mosei")]
    draws = [resampled(counts, 50, seed_of(0, groups))[:, 0] for groups in sets]
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert not np.array_equal(one, other)
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.5


def test_predictors_of_one_test_set_share_their_resamples_and_another_seed_changes_them():
    groups = ["a", "a", "b", "c"]
    assert seed_of(7, groups) == seed_of(7, ["a", "b", "b", "c"])  # the groups in order of appearance decide
    assert seed_of(7, groups) != seed_of(8, groups)
    assert seed_of(0, ["a", "b"]) != seed_of(0, ["b", "a"])
