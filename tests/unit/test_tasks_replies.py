"""Replies in the forms that public evaluation reports describe are read as they are meant."""

from __future__ import annotations

import random
from itertools import product

import pytest

from emoverse.tasks import mer, task
from emoverse.tasks.replies import final_text, is_loop, language, normalise, read_label

MELD, MOSEI = mer.labels("meld"), mer.labels("mosei")
REPORTED = [
    ("exact", "Joy.", "Joy."),
    ("upper", "JOY", "Joy."),
    ("markdown", "**Joy**", "Joy."),
    ("json", '{"emotion": "joy"}', "Joy."),
    ("quoted", "“Joy.”", "Joy."),
    ("boxed", "\\boxed{joy}", "Joy."),
    ("latex text", "\\boxed{\\text{joy}}", "Joy."),
    ("answer tag", "<answer>anger</answer>", "Anger."),
    ("happy for joy", "Happy.", "Joy."),
    ("happiness for joy", "Happiness", "Joy."),
    ("disgusted", "Disgusted", "Disgust."),
    ("scared", "Scared", "Fear."),
    ("joyous", "Joyous.", "Joy."),
    ("angry", "The person is angry.", "Anger."),
    (
        "think closed",
        "<think>At first he seems joyful and full of joy, but his voice is harsh.</think>\nAnger.",
        "Anger.",
    ),
    ("think unclosed", "<think>He smiles, that may be joy, or is it", None),
    (
        "reason then answer",
        "Although the words could express joy, the tears and the low voice show grief. Final answer: sadness",
        "Sadness.",
    ),
    ("I don't think", "I don't think it is anger; it is sadness.", "Sadness."),
    ("ascii not", "She isn't angry, she shows sadness.", "Sadness."),
    ("neither nor", "Neither joy nor anger: neutral.", "Neutral."),
    ("without", "Without any fear or anger, he is neutral.", "Neutral."),
    ("echoes list", "Among anger, sadness, surprise, disgust, joy, neutral or fear, the label is fear.", "Fear."),
    ("two answers", "Joy and surprise.", "Joy."),
    ("two answers slash", "surprise/joy", "Surprise."),
    ("chinese", "喜悦", None),
    ("chinese + en", "情绪是joy。", "Joy."),
    ("chinese glued before", "答案：sadness", "Sadness."),
    ("underscore", "emotion_sadness", "Sadness."),
    ("empty", "", None),
    ("blank", " \n", None),
    (
        "refusal",
        "I'm sorry, I can't identify the emotion of people in images. There is no anger policy I can apply.",
        None,
    ),
    ("number", "5", None),
    ("neutrality", "Neutrality", "Neutral."),
    ("NFKC full-width", "Ｊｏｙ", "Joy."),
    ("zero width", "\u200bJoy\u200b.", "Joy."),
    ("surprising", "Surprising!", "Surprise."),
    ("label: answer with non-", "non-neutral: joy", "Joy."),
    ("not X but", "not joy but anger", "Anger."),
    ("not necessarily", "not necessarily joy; anger", "Anger."),
    ("no longer", "He is no longer angry but shows sadness", "Sadness."),
    ("isn't really", "It isn't really anger, it's sadness", "Sadness."),
    ("thinking tag", "<thinking>joy?</thinking>anger", "Anger."),
    ("special token", "Anger.<|im_end|>", "Anger."),
]
"""(kind, reply, right reading): one reply for each kind of public report."""


@pytest.mark.parametrize(("kind", "reply", "label"), REPORTED, ids=[kind for kind, _, _ in REPORTED])
def test_a_reported_reply_is_read_as_it_is_meant(kind: str, reply: str, label: str | None) -> None:
    assert task("mer").parse(reply, task("mer").gold("Joy.", corpus="meld")) == label


# Each frame is a way to say that {right} is the answer, some of which name {wrong} ones on the way.
FRAMES = (
    "{right}",
    "{right}!",
    "**{right}**",
    "- {right}",
    "2. {right}",
    "“{right}”",
    "The person is {right}.",
    "It's {right}, not {wrong}.",
    "<think>{wrong}? No, {other}.</think>{right}",
    "<thinking>\n{wrong}\n</thinking>\n\n{right}",
    "{wrong} and {other}</think> {right}",
    "<think>a <think>{wrong}</think> b {other}</think> {right}",
    "It isn’t {wrong}; it is {right}.",
    "not {wrong} but {right}",
    "He doesn't look {wrong} or {other}, he looks {right}.",
    "Neither {wrong} nor {other}: {right}.",
    "Without {wrong}, {right}.",
    "I don't think this is {wrong}. {right}.",
    "rather than {wrong}, {right}",
    "{wrong} is not shown; {right} is.",
    "First {wrong}, then {other}. Final answer: {right}",
    "{wrong}... The answer is {right}.",
    "Maybe {wrong}. Label: {right}",
    "{wrong} was considered.\n<answer>{right}</answer>",
    "So {wrong} is out: \\boxed{{\\text{{{right}}}}}",
    '{{"reason": "not {wrong}", "emotion": "{right}"}}',
    '```json\n{{"label": "{right}"}}\n```',
    "Of anger, sadness, surprise, disgust, joy, neutral or fear I see {right}.",
    "no longer {wrong} but {right}",
    "There is no doubt that this is {right}.",
    "答案：{right}。",
    "emotion_{right}",
    "{right}<|im_end|>",
    "\u200b{right}\u200b",
    "not only {right}",
)
FORMS = {
    "Joy.": ("joy", "Joy", "happy", "HAPPINESS", "joyful"),
    "Anger.": ("anger", "angry"),
    "Fear.": ("fear", "scared", "Afraid"),
    "Sadness.": ("sadness", "sad", "Sad"),
    "Surprise.": ("surprise", "surprised"),
    "Disgust.": ("disgust", "disgusted"),
    "Neutral.": ("neutral", "Neutral"),
}


def made_replies() -> list[tuple[str, str]]:
    """Return every frame with every form of every label, (reply, label), the other labels drawn."""
    draw = random.Random(18)
    replies = []
    for frame, label in product(FRAMES, FORMS):
        for form in FORMS[label]:
            wrong, other = draw.sample([name for name in FORMS if name != label], 2)
            words = {"right": form, "wrong": draw.choice(FORMS[wrong]), "other": draw.choice(FORMS[other])}
            replies.append((frame.format(**words), label))
    return replies


def test_more_than_500_made_replies_are_all_read_as_they_are_meant() -> None:
    replies = made_replies()
    assert len(replies) > 500
    wrong = [(reply, label, found) for reply, label in replies if (found := read_label(reply, MELD).label) != label]
    assert wrong == []


def test_synonyms_go_both_ways_between_the_corpora() -> None:
    for form in FORMS["Joy."]:
        assert (read_label(form, MELD).label, read_label(form, MOSEI).label) == ("Joy.", "Happy.")


def test_no_synonym_belongs_to_two_labels() -> None:
    words = [word for name, forms in language()["synonyms"].items() for word in (name, *forms)]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    "reply",
    [
        "unhappy",
        "upset",
        "not joy, not fear",
        "I can't tell.",
        "Final answer: contempt",
        "<answer>unclear</answer> joy?",
        "anger, sadness, surprise, disgust, joy, neutral or fear",
        "1. joy\n2. fear\n3. anger",
        "<think>joy",
        "<think>joy</think>",
    ],
)
def test_a_reply_that_gives_no_label_is_unparsable(reply: str) -> None:
    assert read_label(reply, MELD).label is None
    assert task("mer").flaws(reply, {"answers": MELD}) >= {"unparsable"}


@pytest.mark.parametrize("reply", ["Joy and surprise.", "joy/surprise", "Joy at first, surprise later"])
def test_of_several_labels_the_first_counts_and_the_reply_is_ambiguous(reply: str) -> None:
    assert read_label(reply, MELD) == ("Joy.", True)
    assert task("mer").flaws(reply, {"answers": MELD}) == {"ambiguous"}


def test_an_explicit_answer_among_several_labels_is_not_ambiguous() -> None:
    assert read_label("Joy, surprise. The answer is fear.", MELD) == ("Fear.", False)


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("positive or negative: negative", "Negative."),
        ("not positive", None),
        ("The sentiment is positive.", "Positive."),
        ("non-negative", None),
    ],
)
def test_sentiment_is_read_by_the_same_rules(reply: str, label: str | None) -> None:
    assert read_label(reply, ("Positive.", "Negative.")).label == label


def test_reasoning_is_cut_off_for_every_task() -> None:
    thought = "<think>3_joy,1 Jaw dropped; fear</think>"
    for name, answer in (
        ("ecpe", "3_fear,2"),
        ("fer", "Cheeks raised"),
        ("eri", "She feels joy."),
        ("msa", "Negative."),
    ):
        known = task(name)
        gold = known.gold(answer, corpus="meld")
        assert known.parse(thought + answer, gold) == known.parse(answer, gold) is not None
        assert known.parse(thought, gold) is None
        assert (
            known.scorer([gold]).counts([thought + answer]).tolist()[0][:5]
            == known.scorer([gold]).counts([answer]).tolist()[0][:5]
        )


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("a", "a"),
        ("", ""),
        ("<b>a</b>", "<b>a</b>"),
        ("<think>x</think>a", "a"),
        ("x</think>a", "a"),
        ("<think>x", None),
        ("<THINK >x</thinking>a", "a"),
        ("a<think>x</think>b", "ab"),
        ("<think></think>", None),
    ],
)
def test_a_reasoning_block_and_what_it_leaves(reply: str, text: str | None) -> None:
    assert final_text(reply) == text


def test_text_is_normalised_before_it_is_read() -> None:
    assert normalise("\ufeffＪｏｙ\u200d “it’s”<|im_end|>").strip() == 'joy "it\'s"'


@pytest.mark.parametrize(
    ("reply", "loop"), [("joy joy joy", True), ("It is joy. " * 4, True), ("Joy.", False), ("It is joy.", False)]
)
def test_a_loop_is_told_from_a_sentence(reply: str, loop: bool) -> None:
    assert is_loop(reply) == loop
    assert ("repeated" in task("mer").flaws(reply, {"answers": MELD})) == loop
