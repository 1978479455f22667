"""Scores, intervals, calibration, controls and published figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emoverse.errors import UserError
from emoverse.evaluation import scoring as bootstrap
from emoverse.evaluation.evaluate import collect, face_only, text_only
from emoverse.evaluation.score_file import published_beside
from emoverse.evaluation.scoring import (
    baseline_headlines,
    expected_error,
    group_sums,
    interval,
    pooled,
    posterior,
    reliability,
    resampled,
    score,
    seed_of,
)
from emoverse.inference.engine import Engine
from emoverse.inference.test_sets import EvaluationSet
from emoverse.tasks import ratio
from tests.factories.answering import EVALUATE, rows_of, utterances

SENTIMENTS = ["Negative.", "Positive."]
LABELS = ["Anger.", "Sadness.", "Surprise.", "Disgust.", "Joy.", "Neutral.", "Fear."]


def golds(*answers: str) -> list[dict]:
    return [{"answer": answer, "answers": LABELS, "group": str(i)} for i, answer in enumerate(answers)]


def scored(task: str, records: list[dict], replies: list[str], bootstrap: int = 100):
    groups = [record["group"] for record in records]
    return score(task, records, replies, groups=groups, bootstrap=bootstrap, seed=0)


def test_unreadable_replies_are_wrong_and_listed():
    found = scored("mer", golds("Joy.", "Fear.", "Joy."), ["Joy.", "banana", ""])
    assert found.values["accuracy"] == pytest.approx(1 / 3)
    assert found.unparsable == (1, 2)
    assert found.confusion.matrix[:, -1].sum() == 2


def test_weighted_f1_is_scikit_learns():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    actual, replies = ([LABELS[i] for i in rng.integers(0, 7, 200)] for _ in range(2))
    found = scored("mer", golds(*actual), replies)
    theirs = f1_score(actual, replies, labels=LABELS, average="weighted")
    assert found.values["weighted_f1"] == pytest.approx(theirs)


def test_an_interval_holds_its_score_and_is_the_same_each_time():
    records = golds(*(LABELS[i % 7] for i in range(60)))
    replies = [LABELS[i % 7 if i % 3 else 0] for i in range(60)]
    one, two = (scored("mer", records, replies) for _ in range(2))
    low, high = one.interval()
    assert low < one.values["accuracy"] < high
    assert one.interval() == two.interval()


def test_pairs_are_scored_both_ways_under_names_that_say_which():
    gold = {"answers": None, "target": 3, "emotion": "joy", "previous": 2}
    records = [{**gold, "answer": "3_joy,1;3_joy,3", "group": "a"}, {**gold, "answer": "", "group": "b"}]
    found = scored("ecpe", records, ["3_joy,1", "3_joy,3"])
    assert found.values["authors_f1"] == pytest.approx(2 / 3)  # the record without a cause is skipped ...
    assert found.values["official_micro_f1"] == pytest.approx(0.5)  # ... and its false positive counted
    assert (found.n, found.scored, found.headline) == (2, 1, "pair_f1")


def test_pooled_accuracy_is_that_of_all_records_together():
    one = scored("mer", golds("Joy.", "Fear.", "Joy."), ["Joy.", "Joy.", "Joy."])
    two = scored("mer", golds("Anger."), ["Anger."])
    value, samples = pooled([one, two], "accuracy")
    assert value == pytest.approx(3 / 4)
    assert samples.shape == (100,)


def test_the_baseline_is_the_commonest_trained_answer_and_without_one_the_commonest_gold():
    records = golds("Joy.", "Joy.", "Fear.")
    assert baseline_headlines("mer", records, ["Fear.", "Fear.", "Joy."]) == {"majority": pytest.approx(1 / 3)}
    assert baseline_headlines("mer", records) == {"majority": pytest.approx(2 / 3)}


def test_posteriors_sum_to_one_even_where_likelihoods_are_tiny():
    found = posterior(np.array([[-2000.0, -2001.0], [-1.0, -1.0]]))
    assert found.sum(axis=1) == pytest.approx([1.0, 1.0])
    assert found[0, 0] == pytest.approx(1 / (1 + np.exp(-1)))


def test_a_calibrated_model_has_no_calibration_error_and_an_overconfident_one_its_gap():
    right = np.array([True] * 7 + [False] * 3)
    assert expected_error(reliability(np.full(10, 0.7), right)) == pytest.approx(0.0)
    assert expected_error(reliability(np.full(10, 0.95), right)) == pytest.approx(0.25)
    assert reliability(np.array([1.0]), np.array([True]))[0]["high"] == 1.0


def test_the_text_only_control_keeps_the_words_and_blanks_every_kind_of_frame():
    video, image = {"videos": ["clip:a"], "images": []}, {"videos": [], "images": ["clip:a#peak"]}
    assert text_only(video) == {"videos": ["clip:a#blank"], "images": []}
    assert text_only(image) == {"videos": [], "images": ["clip:a#peak#blank"]}


@pytest.mark.parametrize("task", ["mer", "msa"])
@pytest.mark.parametrize("corpus", ["meld", "mosei"])
def test_the_face_only_control_asks_as_if_nothing_had_been_said(task, corpus):
    spoken = utterances(corpus, 12)
    silent = rows_of(task, [replace(one, text="...") for one in spoken])
    assert [face_only(row) for row in rows_of(task, spoken)] == silent


def test_a_question_without_words_cannot_be_controlled_for_them():
    with pytest.raises(ValueError, match="0 transcripts"):
        face_only({"channel": "x", "messages": [{"role": "user", "content": "<video>What?"}]})


def test_a_published_figure_compares_only_on_as_many_records():
    mine = {"authors_f1": 0.7, "official_weighted_f1": 0.5}
    whole = {one["metric"]: one for one in published_beside("ecf", "ecpe", mine, 1821)}
    assert whole["authors_f1"]["comparable"]
    assert not whole["official_weighted_f1"]["comparable"]
    assert not any(one["comparable"] for one in published_beside("ecf", "ecpe", mine, 20))
    (doubtful,) = published_beside("meld", "mer", {"accuracy": 0.5}, 2610)
    assert (doubtful["value"], doubtful["comparable"]) == (0.667, False)
    (sentiment,) = published_beside("mosei", "msa", {"accuracy/pos_neg": 0.5}, 4659)
    assert (sentiment["value"], sentiment["comparable"]) == (0.83, False)
    assert published_beside("meld", "msa", {"accuracy": 0.5}, 2610) == []
    (leaderboard,) = published_beside("ecf", "ecpe_semeval", mine, 3101)
    assert leaderboard["comparable"]


class _Broken(Engine):
    """Answers from a table, of which one likelihood is ``value``; in the control, if ``controls``."""

    def __init__(self, value: float, at: int, controls: bool) -> None:
        self.value, self.at, self.turn = value, at, int(controls)

    def score_answers(self, rows, answers):
        likelihoods = np.full((len(rows), len(answers)), -1.0)
        if self.turn == 0:
            likelihoods[self.at, 2] = self.value
        self.turn -= 1
        return likelihoods, np.zeros(len(rows), np.int64)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("controls", [False, True])
def test_a_likelihood_that_is_not_finite_stops_and_names_its_row(value, controls):
    rows = rows_of("mer", utterances("meld", 12))
    test = EvaluationSet("meld-mer", "meld", "mer", tuple(rows))
    for at in (0, 7, 11):
        with pytest.raises(UserError, match=r"likelihoods that are not finite numbers, in 1 of 12 rows") as caught:
            collect(_Broken(value, at, controls), test, replace(EVALUATE, controls=("text-only",)))
        assert f"meld-mer: {test.ids[at]}:" in str(caught.value)


def sentiments(*values: float) -> list[dict]:
    gold = {"answer": "Positive.", "answers": SENTIMENTS, "zero": False, "zeros": "drop"}
    return [{**gold, "value": value, "group": str(i)} for i, value in enumerate(values)]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("value", "name"), [(1e200, "corr"), (1.7e308, "mae")])
def test_a_score_that_is_not_finite_stops_and_is_named(value, name):
    with pytest.raises(UserError, match=rf"scores of msa: {name} is not a finite number; look for numbers"):
        scored("msa", sentiments(value, value, 1.0), ["-1.5", "1", "2"])


@pytest.mark.parametrize("absurd", ["1e200", "-1.7e308", "1" * 300, "inf", "nan", "-1e7"])
def test_a_reply_beyond_any_scale_is_wrong_and_leaves_the_other_records_scores_alone(absurd):
    records = sentiments(1.5, 1.0, 2.0, 0.5)
    found = scored("msa", records, ["1.5", "2", "1.5", absurd]).values
    assert found["mae"] == pytest.approx(0.5)
    assert found["corr"] == scored("msa", records, ["1.5", "2", "1.5", "?"]).values["corr"] != 0
    assert found["acc2_with_zero"] == 0.75


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("top", "below"), [(np.nan, 1.0), (1.0, np.nan), (np.inf, np.inf), (np.inf, 1.0)])
def test_a_ratio_hides_no_number_that_is_not_finite(top, below):
    assert not np.isfinite(ratio(np.array([top]), np.array([below]))).any()
    assert ratio(np.array([top]), np.array([0.0])).tolist() == [0.0]


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
