from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoverse.corpora import Utterance
from emoverse.tasks import Context, Question, Skipped, Task, conditions, task, tasks
from emoverse.tasks.ecpe import EMOTIONS, parse_pairs
from tests.factories.amt import utterance

ECPE, SEMEVAL = task("ecpe"), task("ecpe_semeval")


def talk() -> list[Utterance]:
    rows = ((1, "neutral", ()), (2, "joy", (1, 2)), (3, "fear", (3, 1)))
    return [
        utterance(corpus="ecf", position=n, emotion=emotion, causes=causes, text=f"Line <image> {n}")
        for n, emotion, causes in rows
    ]


def question_at(
    position: int, dialogue: Sequence[Utterance] | None = None, condition: Task = ECPE
) -> Question | Skipped:
    rows = dialogue or talk()
    one = next(row for row in rows if row.position == position)
    return condition.question(Context(utterance=one, dialogue=rows))


def test_the_prompt_lists_the_conversation_and_only_what_came_before() -> None:
    found = question_at(3)
    assert isinstance(found, Question)
    assert "Input conversation:1_neutral. Ann: Line < image> 1\n2_joy. Ann:" in found.text
    assert (
        "Candidate utterances:1_neutral. Ann: Line < image> 1\n2_joy. Ann: Line < image> 2\nTarget utterance:3_fear."
        in found.text
    )
    assert found.answer == "3_fear,3;3_fear,1"
    assert found.gold["previous"] == 2


def test_without_gold_emotions_no_emotion_is_shown() -> None:
    found = question_at(2, condition=SEMEVAL)
    assert isinstance(found, Question)
    assert "Input conversation:1. Ann: Line" in found.text
    assert "\nTarget utterance:2. Ann: Line" in found.text
    for word in ("1_neutral", "2_joy", "emotion label for each"):
        assert word not in found.text
    assert found.answer == "2_joy,1;2_joy,2"


def test_without_gold_emotions_a_neutral_utterance_is_asked_too_and_has_no_pair() -> None:
    dialogue = [utterance(corpus="ecf", position=1, emotion="neutral", causes=(1,))]
    for rows in (dialogue, talk()):
        found = question_at(1, rows, SEMEVAL)
        assert isinstance(found, Question)
        assert found.answer == ""
        assert SEMEVAL.parse("", found.gold) == ()


def test_both_conditions_are_one_task_of_five() -> None:
    assert conditions("ecpe") == conditions("ecpe_semeval") == ("ecpe", "ecpe_semeval")
    assert conditions("mer") == ("mer",)
    assert "ecpe_semeval" not in tasks()


def test_a_pair_for_a_neutral_target_costs_precision_only_where_neutral_ones_are_asked() -> None:
    golds = [found.gold for n in (1, 2, 3) if isinstance(found := question_at(n, condition=SEMEVAL), Question)]
    right = [str(gold["answer"]) for gold in golds]
    scorer = SEMEVAL.scorer(golds)
    assert scorer.scores(scorer.counts(right).sum(0))["official_micro_f1"] == 1.0
    spoiled = scorer.scores(scorer.counts(["1_joy,1", *right[1:]]).sum(0))
    assert (spoiled["official_micro_recall"], spoiled["official_micro_precision"]) == (1.0, 0.8)


def test_the_trivial_rules_without_gold_emotions_know_no_emotion_but_the_commonest_trained() -> None:
    golds = [found.gold for n in (1, 2) if isinstance(found := question_at(n, condition=SEMEVAL), Question)]
    trained = Counter({"2_fear,1": 2, "": 9, "4_anger,4;4_anger,3": 3, "5_fear,1": 1})
    made = SEMEVAL.baselines(golds, trained)
    assert made["commonest emotion, previous + target"] == ["1_anger,1", "2_anger,1;2_anger,2"]
    assert SEMEVAL.baselines(golds, Counter())["commonest emotion, target itself"] == ["1_joy,1", "2_joy,2"]


def test_targets_without_an_emotion_annotation_or_a_surviving_cause_are_left_out() -> None:
    assert question_at(1) == Skipped("neutral-target")
    assert question_at(1, [utterance(position=1)]) == Skipped("no-cause-pairs")
    left = question_at(3, talk()[1:])
    assert isinstance(left, Skipped)
    assert left.reason == "cause-quarantined"


def test_a_target_without_a_cause_has_an_empty_answer() -> None:
    one = utterance(corpus="ecf", position=1, emotion="joy", causes=())
    found = question_at(1, [one])
    assert isinstance(found, Question)
    assert found.answer == ""
    assert found.gold["previous"] is None


@pytest.mark.parametrize(
    ("reply", "pairs"),
    [
        ("3_joy,1", ((3, "joy", 1),)), (" 3_joy, 1 ; 3_joy,3. ", ((3, "joy", 1), (3, "joy", 3))), ("", ()),
        ("“3_joy,1”", ((3, "joy", 1),)),
        ("3_joy,1；3_joy,2", ((3, "joy", 1), (3, "joy", 2))), ("3_joy", None), ("none", ()),
        ("3_joy,1;;", ((3, "joy", 1),)),
        ("3_joy,1;x", ((3, "joy", 1),)), ("3,1", None), (".,.", None), ("I see", None),
    ],
)  # fmt: skip
def test_a_reply_is_read_as_pairs_or_not_at_all(reply: str, pairs: object) -> None:
    assert parse_pairs(reply) == pairs


def official(golds: list[set[tuple[int, str, int]]], replies: list[set[tuple[int, str, int]]]) -> tuple[float, float]:
    """Score as SemEval's subtask 2 describes it, on sets of (record, target, emotion, cause)."""
    gold = {(i, *pair) for i, pairs in enumerate(golds) for pair in pairs}
    mine = {(i, *pair) for i, pairs in enumerate(replies) for pair in pairs if pair[1] in EMOTIONS}

    def f(a: set[tuple[int, int, str, int]], b: set[tuple[int, int, str, int]]) -> float:
        p, r = len(a & b) / (len(b) + 1e-8), len(a & b) / (len(a) + 1e-8)
        return 2 * p * r / (p + r + 1e-8)

    weights = Counter(pair[2] for pair in gold)
    each = {e: f({x for x in gold if x[2] == e}, {x for x in mine if x[2] == e}) for e in EMOTIONS}
    return f(gold, mine), sum(each[e] * weights[e] for e in EMOTIONS) / max(1, sum(weights.values()))


PAIRS = st.lists(st.tuples(st.integers(1, 4), st.sampled_from([*EMOTIONS, "neutral"]), st.integers(1, 4)), max_size=4)


@given(
    st.lists(
        st.tuples(st.sets(st.integers(1, 4), max_size=3), st.sampled_from(EMOTIONS), PAIRS), min_size=1, max_size=12
    )
)
def test_both_f1s_are_those_of_their_definitions(
    records: list[tuple[set[int], str, list[tuple[int, str, int]]]],
) -> None:
    golds = [[(2, emotion, cause) for cause in sorted(causes)] for causes, emotion, _ in records]
    replies = [reply for _, _, reply in records]
    text = [";".join(f"{t}_{e},{c}" for t, e, c in pairs) for pairs in replies]
    answers = [";".join(f"{t}_{e},{c}" for t, e, c in pairs) for pairs in golds]
    scorer = ECPE.scorer([ECPE.gold(answer, corpus="ecf") for answer in answers])
    scores = scorer.scores(scorer.counts(text).sum(0))
    micro, weighted = official([set(pairs) for pairs in golds], [set(pairs) for pairs in replies])
    assert scores["official_micro_f1"] == pytest.approx(micro, abs=1e-6)
    assert scores["official_weighted_f1"] == pytest.approx(weighted, abs=1e-6)
    kept = [(a.split(";"), t.split(";")) for a, t in zip(answers, text, strict=True) if a]
    hits = sum(part in gold for gold, parts in kept for part in parts)
    total = sum(len(parts) for _, parts in kept) + sum(len(gold) for gold, _ in kept)
    assert scores["authors_f1"] == pytest.approx(2 * hits / total if total else 0.0)
    sets = [(set(gold), set(predicted)) for gold, predicted in zip(golds, replies, strict=True) if gold]
    hits, total = sum(len(gold & predicted) for gold, predicted in sets), sum(len(a) + len(b) for a, b in sets)
    assert scores["pair_f1"] == pytest.approx(2 * hits / total if total else 0.0)
    assert scores["pair_f1"] <= 1.0


def test_a_conversation_is_one_set_of_pairs_whoever_names_them() -> None:
    answers, replies = ["2_joy,1", "3_fear,3"], ["2_joy,1;3_fear,3;3_fear,2", "3_fear,3;2_joy,2"]
    whole = [{"answer": answer, "answers": None, "group": "dia1"} for answer in answers]
    apart = [{"answer": answer, "answers": None} for answer in answers]
    scores = [s.scores(s.counts(replies).sum(0)) for s in (ECPE.scorer(whole), ECPE.scorer(apart))]
    assert [(s["official_micro_precision"], s["official_micro_recall"]) for s in scores] == [(2 / 4, 1.0), (2 / 5, 1.0)]


def test_an_unreadable_reply_is_wrong_and_counted() -> None:
    scorer = ECPE.scorer([ECPE.gold("3_joy,1", corpus="ecf"), ECPE.gold("3_joy,1", corpus="ecf")])
    scores = scorer.scores(scorer.counts(["the first one", "3_joy,1"]).sum(0))
    assert (scores["unparsable"], scores["pair_recall"], scores["pair_precision"]) == (0.5, 0.5, 1.0)
    assert scores["authors_precision"] == 0.5  # whose code counts every part of the text as a pair


def test_a_published_record_tells_its_target_by_answer_or_query() -> None:
    assert ECPE.gold("12_fear,3", corpus="ecf")["target"] == 12
    query = "...\nTarget utterance:4_sadness. Ann: oh\nYou need"
    gold = ECPE.gold("", corpus="ecf", query=query)
    assert (gold["target"], gold["emotion"], gold["previous"]) == (4, "sadness", 3)


def test_the_two_trivial_rules_are_written_as_answers() -> None:
    golds = [found.gold for found in (question_at(2), question_at(3)) if isinstance(found, Question)]
    made = ECPE.baselines(golds, Counter())
    assert made == {
        "target itself": ["2_joy,2", "3_fear,3"],
        "previous + target": ["2_joy,1;2_joy,2", "3_fear,2;3_fear,3"],
    }
    assert all(parse_pairs(reply) for replies in made.values() for reply in replies)
    assert all(a < b for a, b in pairwise(gold["target"] for gold in golds))


def test_no_records_have_no_counts():
    assert task("ecpe").scorer([]).counts([]).shape == (0, 65)
