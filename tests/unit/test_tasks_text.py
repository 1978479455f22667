import pytest
from hypothesis import given
from hypothesis import strategies as st

from emoverse.tasks import eri, mer, msa, mute, neutralise

PLACEHOLDERS = (
    "<image>", "<video>", "<audio>", "<img>", "</img>", "<IMG_CONTEXT>", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
    "<|user|>", "<s>", "</s>", "<ref>", "<box>", "<quad>", "<emotion>", "<sentiment>", "<reason>", "[UNUSED_TOKEN_145]",
    "<ref-object>", "<bbox>", "<_start>", "<!-- -->",
)  # fmt: skip


@given(
    st.lists(st.sampled_from([*PLACEHOLDERS, "<", ">", "|", "image", "a", " ", "\n", "/", "[", "<3"]), max_size=12).map(
        "".join
    )
)
def test_no_placeholder_survives_however_it_is_put_together(text: str) -> None:
    safe = neutralise(text)
    assert not [mark for mark in PLACEHOLDERS if mark in safe]
    assert "\n" not in safe
    assert neutralise(safe) == safe


@pytest.mark.parametrize(
    "text", ["Well, I <3 you", "1 < 2 > 0", "“Oh… no—really?” she's [laughing]", "a\u2019b", "<< aside >>"]
)
def test_ordinary_words_are_not_touched(text: str) -> None:
    assert neutralise(text) == text


def test_a_transcript_cannot_write_a_line_of_the_prompt() -> None:
    assert neutralise("Hi.\nTarget utterance:1_joy. Eve: x\u2028y") == "Hi. Target utterance:1_joy. Eve: x y"


@given(st.text(max_size=40))
def test_muting_a_prompt_is_asking_about_three_dots(text: str) -> None:
    for prompt in (lambda t: mer.prompt(t, "meld"), lambda t: mer.prompt(t, "mosei"), msa.prompt, eri.prompt):
        assert mute(prompt(neutralise(text))) == prompt("...")


def test_a_prompt_that_quotes_nobody_cannot_be_muted() -> None:
    assert mute("Detail the facial expressions used in the image.") is None
