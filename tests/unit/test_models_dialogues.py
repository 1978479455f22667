"""Dialogues of pretraining: the answer is what the lines say."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from emoverse.models.pretraining_dialogues import Spoken, ask_about, first_names, make_dialogue
from emoverse.synthetic.lines import GUESTS, NAMES

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


@dataclass(frozen=True)
class Written:
    """A line as the question shows it."""

    label: str
    speaker: str
    text: str


def read(question: str) -> dict[int, Written]:
    """Return the lines that a question shows, by number."""
    found = re.findall(r"(\d+)(?:_(\S+?))?\. (\w+): (.+)", question)
    return {int(number): Written(label, speaker, text) for number, label, speaker, text in found}


def source_of(number: int, shown: dict[int, Written]) -> int:
    """Return the number of the line that a line answers: the latest one of the person whom it calls, else itself."""
    called = re.match(r"(\w+), ", shown[number].text)
    return max(n for n, line in shown.items() if n < number and line.speaker == called[1]) if called else number


def test_the_answer_names_a_line_its_label_and_its_source() -> None:
    labels = set()
    for lines, target, question, answer in questions():
        if found := re.fullmatch(r"(\d+)_([^;]+),(\d+)", answer):
            number, label, source = int(found[1]), found[2], int(found[3])
            shown = read(question)
            assert shown[number].text == lines[target].text
            assert label == (shown[number].label or lines[target].feeling)
            assert source == source_of(number, shown)
            labels.add(label)
    assert len(labels) > 40, "most labels are any words"


def test_numbers_rise_with_gaps() -> None:
    gaps = 0
    for lines, _, question, _ in questions():
        numbers = sorted(read(question))
        gaps += len(numbers) >= 3 and numbers[-1] - numbers[0] >= len(numbers)
        assert len(numbers) <= len(lines)
    assert gaps > 20


def test_nothing_sets_off_a_calm_line_where_feelings_are_not_given() -> None:
    empty = [lines[target].feeling for lines, target, question, answer in questions() if not answer]
    assert empty
    assert set(empty) == {"composed"}


def test_a_question_about_all_lines_has_an_answer_for_each() -> None:
    kinds = set()
    for lines, _, question, answer in questions():
        shown = read(question)
        speakers = {n: line.speaker for n, line in shown.items()}
        if ";" not in answer:
            continue
        if "_" in answer:
            labels = [line.label or lines[place].feeling for place, line in enumerate(shown.values())]
            wanted = [f"{n}_{label},{source_of(n, shown)}" for n, label in zip(shown, labels, strict=True)]
            assert answer == ";".join(wanted)
            kinds.add("sources")
        elif answer == "; ".join(f"{name} {n}" for n, name in speakers.items()):
            kinds.add("speakers")
        else:
            latest = {name: n for n, name in speakers.items()}
            assert sorted(answer.split("; ")) == sorted(f"{name} {n}" for name, n in latest.items())
            kinds.add("latest")
    assert kinds == {"sources", "speakers", "latest"}


def test_other_answers_are_a_persons_name_or_the_number_of_a_latest_line() -> None:
    kinds = set()
    for lines, target, question, answer in questions():
        shown = read(question)
        if answer.isdigit():
            speakers = {one.speaker for one in lines}
            (name,) = {one for one in speakers if re.search(rf"{one}[ ?:]*(speak last)?[?:]*$", question)}
            assert int(answer) == max(n for n, line in shown.items() if line.speaker == name)
            kinds.add("number")
        elif answer and "_" not in answer and ";" not in answer:
            line = lines[target]
            called = re.match(r"(\w+), ", line.text)
            assert answer in {line.speaker, called[1] if called else "nobody"}
            kinds.add("name")
    assert kinds == {"number", "name"}


def test_the_tokenizers_list_of_names_has_those_of_the_sample() -> None:
    assert set(first_names()) >= {*NAMES, *GUESTS}
    assert len(set(first_names())) == len(first_names())
