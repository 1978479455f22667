from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoverse.amt.audit import Leak, Side, conflicts, find_leaks, normalised, overlaps, shared_utterances, sides
from emoverse.amt.build_amt import check_leaks
from emoverse.amt.corpus_table import CorpusTable
from emoverse.corpora import Utterance
from emoverse.errors import UserError
from tests.factories.amt import utterance

LONG = "We were on a break, you know that very well, Ann."


def table(*utterances: Utterance) -> CorpusTable:
    return CorpusTable(utterances)


def leaks(*utterances: Utterance) -> list[Leak]:
    names = sorted({one.corpus for one in utterances})
    return find_leaks([sides(table(*[one for one in utterances if one.corpus == name])) for name in names])


def test_one_episode_and_time_is_a_leak_between_corpora() -> None:
    test = utterance(split="test", episode="S01E01", start=10.0, end=14.0, text="So.")
    same = utterance(corpus="ecf", dialogue_id="9", episode="S01E01", start=10.5, end=14.5, text="So .")
    next_one = replace(same, utterance_id="ecf/train/next", start=13.9, end=18.0)
    elsewhere = replace(same, utterance_id="ecf/train/else", episode="S01E02")
    assert leaks(test, same, next_one, elsewhere) == [Leak(same.utterance_id, test.utterance_id, "time")]


def test_a_span_of_minutes_leaks_none_of_the_utterances_it_covers() -> None:
    test = utterance(split="test", episode="S01E01", start=0.0, end=304.9, text="So.")
    inside = utterance(corpus="ecf", episode="S01E01", start=100.0, end=104.0, text="Hm.")
    assert leaks(test, inside) == []


def test_equal_words_leak_when_they_are_long_and_of_one_speaker() -> None:
    test = utterance(split="test", text=LONG)
    same = utterance(corpus="ecf", text=LONG.lower().replace(",", " ,"))
    other = replace(same, utterance_id="ecf/train/other", speaker="Bob")
    nobody = replace(same, utterance_id="ecf/train/nobody", speaker=None)
    found = leaks(test, same, other, nobody)
    assert [leak.utterance_id for leak in found if leak.sign == "text"] == ["ecf/train/dia0_utt0", "ecf/train/nobody"]
    short = [replace(one, text="Okay. I know!") for one in (test, same)]
    assert leaks(*short) == []


def test_nearly_equal_words_leak_and_different_ones_do_not() -> None:
    words = "and so I told him that nobody in this whole town would ever buy a boat from my uncle again after the flood"
    test = utterance(split="test", text=words)
    near = utterance(corpus="ecf", text=words.replace("flood", "storm"))
    far = replace(near, utterance_id="ecf/train/far", text=" ".join(reversed(words.split())))
    assert leaks(test, near, far) == [Leak("ecf/train/dia0_utt0", test.utterance_id, "near")]


def test_a_clip_mapped_to_another_corpuss_test_clip_is_a_leak() -> None:
    test = utterance(split="test", clip="test/output_repeated_splits_test/dia0_utt0.mp4")
    mapped = utterance(corpus="ecf", clip="MELD/test/output_repeated_splits_test/dia0_utt0.mp4", text="x")
    own = utterance(corpus="ecf", position=1, clip="test/output_repeated_splits_test/dia0_utt0.mp4", text="x")
    assert leaks(test, mapped, own) == [Leak(mapped.utterance_id, test.utterance_id, "clip")]


def test_validation_rows_leak_too_and_the_test_set_not_into_itself() -> None:
    test = utterance(split="test", text=LONG)
    twin = utterance(split="test", position=5, text=LONG)
    check = utterance(split="validation", text=LONG)
    assert leaks(test, twin, check) == [
        Leak(check.utterance_id, test.utterance_id, "text"), Leak(check.utterance_id, twin.utterance_id, "text"),
    ]  # fmt: skip


def test_the_policy_decides_whether_a_leak_is_an_error() -> None:
    found = [Leak(f"ecf/train/{i}", "meld/test/1", "text") for i in range(7)]
    with pytest.raises(UserError, match=r"7 train or validation utterances.*and 2 more.*set it to drop"):
        check_leaks(found, "fail")
    check_leaks(found, "drop")
    check_leaks([], "fail")


def test_shared_utterances_with_two_emotions_are_conflicts() -> None:
    one = utterance(episode="S01E01", start=1.0, end=3.0, emotion="joy")
    other = utterance(corpus="ecf", episode="S01E01", start=1.1, end=3.0, emotion="anger")
    pairs = shared_utterances([sides(table(one)), sides(table(other))])
    assert pairs == [(one.utterance_id, other.utterance_id)]
    (found,) = conflicts(pairs, {one.utterance_id: "joy", other.utterance_id: "anger"})
    assert (found.one_emotion, found.other_emotion) == ("joy", "anger")
    assert not conflicts(pairs, {one.utterance_id: "joy", other.utterance_id: "joy"})
    assert not conflicts(pairs, {one.utterance_id: "joy", other.utterance_id: None})


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_normalised_text_has_the_letters_and_digits_of_any_script(text: str) -> None:
    letters = "".join(char if char.isalnum() else " " for char in text.lower())
    assert normalised(text) == " ".join(letters.split())


SPAN = st.tuples(st.sampled_from(["S01E01", "S01E02", None]), st.integers(0, 40), st.integers(0, 40))


@given(st.lists(SPAN, max_size=8), st.lists(SPAN, max_size=8), st.sampled_from([0.3, 0.5, 1.0]))
def test_overlaps_are_those_that_comparing_every_pair_finds(one: list[Any], two: list[Any], least: float) -> None:
    def alike(a: Any, b: Any) -> bool:
        shared = min(a[1] + a[2], b[1] + b[2]) - max(a[1], b[1])
        union = max(a[1] + a[2], b[1] + b[2]) - min(a[1], b[1])
        return a[0] is not None and a[0] == b[0] and shared > 0 and shared >= least * union

    found = overlaps(side(one), side(two), least)
    assert sorted(found) == sorted(
        (str(i), str(j)) for i, a in enumerate(one) for j, b in enumerate(two) if alike(a, b)
    )


def side(spans: list[Any]) -> Side:
    made = [
        utterance(utterance_id=str(i), episode=episode, start=float(start), end=float(start + length))
        for i, (episode, start, length) in enumerate(spans)
    ]
    return Side("meld", made)


def test_normal_words_have_no_signs_case_or_double_blanks() -> None:
    assert normalised("  “Oh…  NO”—it's_me! ") == "oh no it s me"
