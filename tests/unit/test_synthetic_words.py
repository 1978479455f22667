import numpy as np

from emoverse.synthetic.expressions import EMOTIONS
from emoverse.synthetic.phrases import BY_EMOTION, GENERIC, REVIEWS, TAILS, TOPICS, make_text


def test_every_phrase_fits_every_topic():
    banks = [*BY_EMOTION.values(), GENERIC, *TAILS.values()]
    for thing, place in (*TOPICS, *REVIEWS):
        for bank in banks:
            assert all("{" not in phrase.format(thing=thing, place=place) for phrase in bank)


def test_every_emotion_has_phrases_of_its_own():
    assert set(BY_EMOTION) == set(EMOTIONS)
    phrases = [phrase for bank in (*BY_EMOTION.values(), GENERIC) for phrase in bank]
    assert len(phrases) == len(set(phrases))


def test_words_fit_the_emotion_in_about_62_of_100_utterances():
    rng = np.random.default_rng(0)
    own = {phrase.format(thing="the tent", place="the bar") for phrase in BY_EMOTION["fear"]}
    texts = [make_text("fear", -1, ("the tent", "the bar"), set(), rng) for _ in range(1000)]
    share = sum(any(text.startswith(phrase) for phrase in own) for text in texts) / 1000
    assert 0.57 < share < 0.67


def test_a_conversation_does_not_repeat_a_phrase_while_others_are_left():
    used: set[str] = set()
    rng = np.random.default_rng(1)
    texts = [make_text("joy", 1, TOPICS[0], used, rng) for _ in range(5)]
    assert len(set(texts)) == 5
