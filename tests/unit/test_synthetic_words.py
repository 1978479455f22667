import re

import numpy as np
import pytest

from emoverse.synthetic.faces import EMOTIONS
from emoverse.synthetic.lines import PARTIAL_FACE_SHARE, make_conversations
from emoverse.synthetic.phrases import (
    AMBIGUOUS,
    BY_EMOTION,
    GENERIC,
    NEUTRAL_TAIL_SHARE,
    REVIEWS,
    SURPRISE_TAIL_SHARE,
    TAILS,
    TEST_REVIEWS,
    TEST_TOPICS,
    TOPICS,
    make_text,
)


def test_every_phrase_fits_every_topic():
    banks = [*BY_EMOTION.values(), *AMBIGUOUS.values(), GENERIC, *TAILS.values()]
    for thing, place in (*TOPICS, *REVIEWS, *TEST_TOPICS, *TEST_REVIEWS):
        for bank in banks:
            assert all("{" not in phrase.format(thing=thing, place=place) for phrase in bank)


def test_every_emotion_has_phrases_of_its_own():
    assert set(BY_EMOTION) == set(EMOTIONS)
    phrases = [phrase for bank in (*BY_EMOTION.values(), *AMBIGUOUS.values(), GENERIC) for phrase in bank]
    assert len(phrases) == len(set(phrases))


@pytest.mark.parametrize("plain", [True, False])
def test_plain_words_fit_one_emotion_alone_and_others_never_do(plain):
    rng = np.random.default_rng(0)
    own = {phrase.format(thing="the tent", place="the bar").capitalize() for phrase in BY_EMOTION["fear"]}
    texts = [make_text("fear", -1, plain, ("the tent", "the bar"), set(), rng) for _ in range(1000)]
    assert {any(text.capitalize().startswith(phrase) for phrase in own) for text in texts} == {plain}


def test_every_emotion_but_neutral_has_words_that_another_one_has_too():
    assert {name for emotions in AMBIGUOUS for name in emotions} == set(EMOTIONS) - {"neutral"}
    assert all(len(set(emotions)) >= 2 for emotions in AMBIGUOUS)


@pytest.mark.parametrize(("emotion", "share"), [("surprise", SURPRISE_TAIL_SHARE), ("neutral", NEUTRAL_TAIL_SHARE)])
def test_words_say_the_valence_that_an_emotion_leaves_open_as_often_as_said(emotion, share):
    rng = np.random.default_rng(2)
    for valence in (1, -1):
        texts = [make_text(emotion, valence, True, TOPICS[0], set(), rng) for _ in range(500)]
        assert abs(sum(text.endswith(TAILS[valence]) for text in texts) / 500 - share) < 0.08
        assert not any(text.endswith(TAILS[-valence]) for text in texts)


def test_things_and_places_of_test_splits_occur_in_no_other():
    assert not {word for pair in (*TOPICS, *REVIEWS) for word in pair[:1]} & {
        t for t, _ in (*TEST_TOPICS, *TEST_REVIEWS)
    }


def test_a_conversation_does_not_repeat_a_phrase_while_others_are_left():
    used: set[str] = set()
    rng = np.random.default_rng(1)
    texts = [make_text("joy", 1, True, TOPICS[0], used, rng) for _ in range(5)]
    assert len(set(texts)) == 5


def test_where_the_words_leave_the_emotion_open_the_face_mostly_shows_it():
    lines = [line for dialogue in make_conversations("MELD/train", 1500, 1, seed=5) for line in dialogue.lines]
    of_emotion = {
        emotion: re.compile("|".join(re.sub(r"\\{\w+\\}", ".+", re.escape(phrase)) for phrase in bank), re.IGNORECASE)
        for emotion, bank in BY_EMOTION.items()
    }
    partial = {True: [], False: []}
    for line in lines:
        partial[bool(of_emotion[line.emotion].search(line.text))].append(line.partial)
    for plain, share in PARTIAL_FACE_SHARE.items():
        # neutral words are plain more often than drawn so
        assert abs(sum(partial[plain]) / len(partial[plain]) - share) < 0.15
