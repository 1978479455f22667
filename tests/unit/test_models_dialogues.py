"""Dialogues of pretraining: the answer is what the lines say."""

from __future__ import annotations

import re

import numpy as np

from emoverse.models.pretraining_dialogues import Spoken, ask_about, first_names, make_dialogue
from emoverse.synthetic.people import GUESTS, NAMES

FEELINGS = ("composed", "cheerful", "cross")


def plain(feeling: str, rng: np.random.Generator) -> str:
    return "Some words."


def questions(count: int = 400) -> list[tuple[list[Spoken], int, str, str]]:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(count):
        lines = make_dialogue(FEELINGS, plain, rng)
        target = int(rng.integers(len(lines)))
        found.append((lines, target, *ask_about(lines, target, rng, quiet="composed")))
    return found


def test_a_line_that_calls_somebody_by_name_answers_that_persons_latest_line() -> None:
    called = 0
    for lines, *_ in questions():
        for place, line in enumerate(lines):
            name = re.match(r"(\w+), ", line.text)
            if name is None:
                assert line.answers is None
                continue
            called += 1
            assert line.answers == max(i for i in range(place) if lines[i].speaker == name[1])
    assert called > 300


def test_the_answer_names_target_feeling_and_source() -> None:
    sources = 0
    for lines, target, _, answer in questions():
        if found := re.fullmatch(r"(\d)_(\w+),(\d)", answer):
            line = lines[target]
            source = target if line.answers is None else line.answers
            assert found.groups() == (str(target + 1), line.feeling, str(source + 1))
            sources += 1
    assert sources > 200


def test_nothing_sets_off_a_calm_line_where_feelings_are_not_given() -> None:
    empty = [lines[target].feeling for lines, target, question, answer in questions() if not answer]
    assert empty
    assert set(empty) == {"composed"}


def test_other_answers_are_a_speakers_name_or_the_number_of_a_latest_line() -> None:
    kinds = set()
    for lines, target, question, answer in questions():
        if answer.isdigit():
            (name,) = {one.speaker for one in lines if re.search(rf"{one.speaker}[ ?:]*(speak last)?[?:]*$", question)}
            assert int(answer) == max(i for i, one in enumerate(lines, 1) if one.speaker == name)
            kinds.add("number")
        elif answer and "," not in answer:
            assert answer == lines[target].speaker
            kinds.add("name")
    assert kinds == {"number", "name"}


def test_the_tokenizers_list_of_names_has_those_of_the_sample() -> None:
    assert set(first_names()) >= {*NAMES, *GUESTS}
    assert len(set(first_names())) == len(first_names())
