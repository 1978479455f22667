"""Pretraining keeps away from the sample: other people, other sentences, other questions, other answers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from emoverse.config import MediaParams
from emoverse.models.pretraining_data import (
    FEELINGS,
    FIRST_IDENTITY,
    VALENCES,
    Example,
    Face,
    draw_face,
    feeling_sentence,
    make_examples,
    verdict_sentence,
)
from emoverse.synthetic import SAMPLE_IDENTITIES
from emoverse.synthetic.faces import EMOTIONS
from emoverse.synthetic.phrases import TOPICS, make_text, valence_of
from emoverse.tasks import ecpe, eri, fer, mer, msa

MEDIA = MediaParams(frames=2, size=32, crop="center", colour="grey-equalised", timeout=20.0)


@pytest.fixture(scope="module")
def faces() -> list[Face]:
    return [draw_face(index, 1, 2, MEDIA) for index in range(40)]


@pytest.fixture(scope="module")
def examples(faces: list[Face]) -> list[Example]:
    return make_examples(faces, 1500, seed=1, dialogues=300)


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def runs(text: str, length: int) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def transcripts(count: int = 1500) -> list[str]:
    rng = np.random.default_rng(11)
    found = []
    for _ in range(count):
        emotion = EMOTIONS[int(rng.integers(len(EMOTIONS)))]
        topic = TOPICS[int(rng.integers(len(TOPICS)))]
        found.append(make_text(emotion, valence_of(emotion, rng), bool(rng.random() < 0.5), topic, set(), rng))
    return found


def test_no_sentence_is_a_sentence_of_the_sample_and_hardly_five_words_run_alike() -> None:
    rng = np.random.default_rng(3)
    own = [feeling_sentence(feeling, rng) for feeling in FEELINGS for _ in range(200)]
    own += [verdict_sentence(valence, rng) for valence in VALENCES for _ in range(200)]
    sample = transcripts()
    assert not {" ".join(words_of(text)) for text in own} & {" ".join(words_of(text)) for text in sample}
    shared = set().union(*(runs(text, 5) for text in own)) & set().union(*(runs(text, 5) for text in sample))
    assert not shared


def test_identities_are_not_the_samples() -> None:
    assert FIRST_IDENTITY > SAMPLE_IDENTITIES


def test_no_answer_about_a_face_or_a_sentence_is_a_label_of_amt(examples: list[Example]) -> None:
    labels = {*mer.labels("meld"), *mer.labels("mosei"), "Positive.", "Negative."}
    answers = {example.answer for example in examples if not example.question.endswith(("?", "synonym of"))}
    assert len(answers) > 8
    quoting = {example.answer for example in examples if "'" in example.question or '"' in example.question}
    assert not quoting & labels


def test_no_question_is_a_question_of_amt(examples: list[Example]) -> None:
    prompts = [mer.prompt("", "meld"), mer.prompt("", "mosei"), msa.prompt(""), eri.prompt(""), fer.PROMPT]
    prompts += [ecpe.prompt([""], 0, emotions=given) for given in (True, False)]
    shared = set().union(*(runs(prompt, 5) for prompt in prompts))
    assert not any(runs(example.question, 5) & shared for example in examples)
    assert not any("<emotion>" in example.question or "<sentiment>" in example.question for example in examples)


def test_the_seed_decides_the_examples(faces: list[Face], examples: list[Example]) -> None:
    assert make_examples(faces, 1500, seed=1, dialogues=300) == examples
    assert make_examples(faces, 1500, seed=2, dialogues=300) != examples


def test_a_face_is_drawn_the_same_whatever_was_drawn_before(faces: list[Face]) -> None:
    again = draw_face(7, 1, 2, MEDIA)
    assert (again.frames == faces[7].frames).all()
    assert again.frames.shape == (2, 32, 32, 3)
    assert {face.feeling for face in faces} == {*FEELINGS, None}


def test_a_label_of_a_corpus_is_in_a_dialogue_as_rare_as_any_other_word(examples: list[Example]) -> None:
    dialogues = [example for example in examples if re.search(r"^\d[_.]", example.question, re.MULTILINE)]
    assert len(dialogues) > 150
    labels = [label for one in dialogues for label in re.findall(r"\d_(\w+)\. \w+: ", one.question)]
    invented = [label for label in labels if label not in FEELINGS]
    assert len(set(invented)) > 100
    assert sum(label in EMOTIONS for label in invented) <= 0.02 * len(invented)
