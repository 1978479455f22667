"""CMU-MOSEI's customary numbers are those of scikit-learn and numpy on the same values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from emoverse.evaluation.score_file import score_file
from emoverse.tasks import Context, Question, task
from tests.factories.amt import utterance


def made_values(seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    true = np.round(draw.uniform(-3, 3, 80) * 3) / 3
    true[:8] = 0.0
    return true, np.clip(true + draw.normal(0, 1.2, 80), -3.5, 3.5)


@pytest.mark.parametrize("seed", range(5))
def test_an_mmsa_file_scores_as_mmsa_does(tmp_path: Path, seed: int) -> None:
    true, predicted = made_values(seed)
    path = tmp_path / "results.json"
    ids = [f"video{i // 4}$_${i % 4}" for i in range(80)]
    path.write_text(
        json.dumps({"Ids": ids, "SResults": predicted.tolist(), "Labels": true.tolist(), "MAE": 0.1}), "utf-8"
    )
    found = score_file(path, "msa", bootstrap=20)
    some = true != 0
    expected = {
        "acc2_with_zero": np.mean((true >= 0) == (predicted >= 0)),
        "f1_with_zero": f1_score(true >= 0, predicted >= 0, average="weighted"),
        "acc2_without_zero": np.mean((true[some] > 0) == (predicted[some] > 0)),
        "f1_without_zero": f1_score(true[some] > 0, predicted[some] > 0, average="weighted"),
        "acc7": np.mean(np.round(np.clip(true, -3, 3)) == np.round(np.clip(predicted, -3, 3))),
        "mae": np.mean(np.abs(true - predicted)),
        "corr": np.corrcoef(true, predicted)[0, 1],
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=2e-6)
    assert found["accuracy/pos_neg"] == pytest.approx(expected["acc2_without_zero"], abs=2e-6)
    assert set(expected) <= set(found["intervals"])
    assert (found["n"], found["groups"], found["unparsable"]) == (80, 20, 0)


def test_a_reply_that_is_no_number_is_wrong_but_has_no_error(tmp_path: Path) -> None:
    rows = [{"response": reply, "labels": label} for reply, label in (("1.0", "2.0"), ("-1", "-1"), ("no idea", "1"))]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    found = score_file(path, "msa", bootstrap=5)
    assert (found["mae"], found["unparsable"]) == (0.5, 1)
    assert found["acc2_with_zero"] == pytest.approx(2 / 3, abs=1e-6)


def test_labels_give_no_scores_of_numbers() -> None:
    gold = task("msa").gold("Positive.", corpus="mosei")
    scorer = task("msa").scorer([gold])
    assert "mae" not in scorer.scores(scorer.counts(["Positive."]).sum(0))


@pytest.mark.parametrize(
    ("zeros", "label"), [("drop", "Negative."), ("positive", "Positive."), ("own-class", "Neutral.")]
)
def test_a_predicted_zero_goes_the_way_of_the_zeros(zeros: str, label: str) -> None:
    gold = {"answers": ["Positive.", "Neutral.", "Negative."], "zeros": zeros}
    assert task("msa").parse("0.0", gold) == label
    assert (task("msa").parse("1.2", gold), task("msa").parse("-0.1", gold)) == ("Positive.", "Negative.")


REPLIES = ("Happy.", "happy and sad", "Anger.", "no idea", "surprise, fear, disgust", "not sad but happy")
NAMED = ({"happy"}, {"happy", "sad"}, {"anger"}, set(), {"surprise", "fear", "disgust"}, {"happy"})
NAMES = ("happy", "sad", "anger", "surprise", "disgust", "fear")


def test_the_six_emotions_are_scored_as_present_or_absent() -> None:
    draw = np.random.default_rng(4)
    true = draw.random((30, 6)) < 0.4
    golds, replies = [], [REPLIES[i % 6] for i in range(30)]
    for row in true:
        one = utterance(corpus="mosei", emotion="joy", intensities=tuple(float(value) for value in row))
        question = task("mer").question(Context(one, [one]))
        assert isinstance(question, Question)
        golds.append(question.gold)
    scorer = task("mer").scorer(golds)
    scores = scorer.scores(scorer.counts(replies).sum(0))
    means = []
    for i, name in enumerate(NAMES):
        predicted = np.array([name in NAMED[j % 6] for j in range(30)])
        expected = recall_score(true[:, i], predicted, average="macro", zero_division=0)
        assert scores[f"present_weighted_accuracy/{name}"] == pytest.approx(expected)
        means.append(f1_score(true[:, i], predicted, average="weighted", zero_division=0))
        assert scores[f"present_weighted_f1/{name}"] == pytest.approx(means[-1])
    assert scores["present_weighted_f1"] == pytest.approx(np.mean(means))
    assert scores["accuracy"] == pytest.approx(
        np.mean([reply.startswith(("Happy", "happy", "not")) for reply in replies])
    )
