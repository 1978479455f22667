from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from emoverse.errors import UserError
from emoverse.tasks import Context, Options, Question, Skipped, mer, parse_label, task, tasks
from tests.factories.amt import utterance

MELD = mer.labels("meld")
MOSEI = mer.labels("mosei")


def ask(name: str, one: object, **options: object) -> Question | Skipped:
    return task(name).question(Context(utterance=one, dialogue=[one], options=Options(**options)))  # type: ignore[arg-type]


def test_the_five_tasks_are_found_and_a_misspelt_one_names_the_nearest() -> None:
    assert list(tasks()) == ["ecpe", "eri", "fer", "mer", "msa"]
    with pytest.raises(UserError, match="did you mean 'mer'"):
        task("merr")


def test_mer_speaks_each_corpuss_words() -> None:
    one = utterance(emotion="joy", text='It\'s "me"')
    meld = ask("mer", one)
    assert isinstance(meld, Question)
    assert (meld.answer, meld.gold["answers"]) == ("Joy.", list(MELD))
    assert meld.text.startswith("The person says: 'It's \"me\"' <emotion> Please")
    mosei = ask("mer", replace(one, corpus="mosei"))
    assert isinstance(mosei, Question)
    assert mosei.answer == "Happy."
    assert mosei.text.endswith("anger, sad, surprise, disgust, happy, neutral or fear.")
    assert isinstance(ask("mer", replace(one, emotion=None)), Skipped)


@pytest.mark.parametrize(
    ("way", "answer", "trained", "classes"),
    [("drop", "Positive.", False, 2), ("positive", "Positive.", True, 2), ("own-class", "Neutral.", True, 3)],
)
def test_sentiment_zero_goes_three_ways(way: str, answer: str, trained: bool, classes: int) -> None:
    found = ask("msa", utterance(corpus="mosei", sentiment=0.0, polarity="neutral"), zero_sentiment=way)
    assert isinstance(found, Question)
    assert (found.answer, found.trained, len(found.gold["answers"]), found.gold["zero"]) == (
        answer,
        trained,
        classes,
        True,
    )
    assert ("neutral" in found.text) == (way == "own-class")


def test_a_neutral_polarity_has_no_sentiment_to_ask_for_unless_it_is_a_class() -> None:
    assert ask("msa", utterance(polarity="neutral")) == Skipped("sentiment-zero")
    assert ask("msa", utterance(polarity=None)) == Skipped("no-sentiment-label")
    assert isinstance(ask("msa", utterance(polarity="neutral"), zero_sentiment="own-class"), Question)


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("Joy.", "Joy."), ("joy", "Joy."), ("  The emotion is JOY!", "Joy."), ("He is angry, not joyful", "Anger."),
        ("not anger but fear", "Fear."), ("non-neutral", None), ("enjoyment", None), ("", None), ("happy", "Joy."),
        ("🙂", None), ("Sad.", "Sadness."),
    ],
)  # fmt: skip
def test_a_reply_is_read_as_the_first_label_it_names(reply: str, label: str | None) -> None:
    assert parse_label(reply, MELD) == label


@given(st.sampled_from(MOSEI), st.text(alphabet=" .!\n\"'", max_size=4), st.booleans())
def test_a_label_is_read_through_blanks_quotes_and_case(label: str, around: str, upper: bool) -> None:
    word = label.upper() if upper else label
    assert parse_label(around + word + around, MOSEI) == label


@given(st.text(max_size=60))
def test_any_reply_is_a_label_or_none(reply: str) -> None:
    assert parse_label(reply, MELD) in {*MELD, None}


@given(st.lists(st.tuples(st.sampled_from(MELD), st.sampled_from([*MELD, "no idea"])), min_size=1, max_size=60))
def test_scores_are_those_of_scikit_learn_with_unparsable_replies_wrong(pairs: list[tuple[str, str]]) -> None:
    gold, replies = [g for g, _ in pairs], [r for _, r in pairs]
    scorer = task("mer").scorer([{"answer": answer, "answers": list(MELD)} for answer in gold])
    scores = scorer.scores(scorer.counts(replies).sum(0))
    known = {"y_true": gold, "y_pred": replies, "labels": list(MELD), "zero_division": 0}
    assert scores["accuracy"] == pytest.approx(accuracy_score(gold, replies))
    assert scores["weighted_f1"] == pytest.approx(f1_score(average="weighted", **known))
    assert scores["macro_f1"] == pytest.approx(f1_score(average="macro", **known))
    each = precision_recall_fscore_support(**known)
    assert scores["recall/fear"] == pytest.approx(each[1][MELD.index("Fear.")])
    assert scores["precision/joy"] == pytest.approx(each[0][MELD.index("Joy.")])
    assert scores["unparsable"] == pytest.approx(replies.count("no idea") / len(replies))


def test_a_bootstrap_is_one_matrix_product() -> None:
    golds = [{"answer": label, "answers": list(MELD)} for label in MELD * 5]
    scorer = task("mer").scorer(golds)
    counts = scorer.counts(["Joy.", "Anger.", "huh", "Fear.", "Joy."] * 7)
    weights = np.random.default_rng(0).multinomial(35, np.full(35, 1 / 35), size=6)
    together = scorer.scores(weights @ counts)
    for i, row in enumerate(weights):
        alone = scorer.scores((row[:, None] * counts).sum(0))
        assert {name: float(value[i]) for name, value in together.items()} == pytest.approx(
            {name: float(value) for name, value in alone.items()}
        )
    confusion = scorer.confusion(counts.sum(0))
    assert confusion is not None
    assert confusion.columns[-1] == "unparsable"
    assert confusion.matrix.shape == (7, 8)
    assert confusion.matrix[:, -1].sum() == 7


def test_both_ways_to_score_sentiment_zero_come_from_one_set_of_replies() -> None:
    signs, replies = (1.0, -1.0, 0.0, 0.0, 2.0), ["Positive.", "Positive.", "Positive.", "Negative.", "what"]
    golds = []
    for sign in signs:
        found = ask("msa", utterance(corpus="mosei", sentiment=sign))
        assert isinstance(found, Question)
        golds.append(found.gold)
    scorer = task("msa").scorer(golds)
    scores = scorer.scores(scorer.counts(replies).sum(0))
    assert scores["accuracy"] == scores["accuracy/pos_neg"] == pytest.approx(1 / 3)
    assert scores["accuracy/non_neg"] == pytest.approx(2 / 5)
    assert scores["exact_match/non_neg"] == pytest.approx(2 / 5)
    gold = ["Positive.", "Negative.", "Positive.", "Positive.", "Positive."]
    expected = f1_score(gold, replies, labels=["Positive.", "Negative."], average="weighted", zero_division=0)
    assert scores["weighted_f1/non_neg"] == pytest.approx(expected)


def test_the_majority_is_the_trained_one() -> None:
    golds = [{"answer": "Joy.", "answers": list(MELD)}] * 3
    assert task("mer").baselines(golds, Counter({"Fear.": 2, "Joy.": 1}))["majority"] == ["Fear."] * 3
    assert task("mer").baselines(golds, Counter())["majority"] == ["Joy."] * 3
