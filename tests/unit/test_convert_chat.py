"""Prompts as InternVL2's conversation.py writes them."""

from pathlib import Path
from typing import Any

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from emoverse.errors import UserError
from emoverse.models.chat_template import Conversation, chat_template, read_conversation

SHORT = Conversation("<SYS>{system_message}!", "Be kind.", ("<U>", "<A>"), "<E>\n")


def prompt(conversation: Conversation, messages: list[dict[str, Any]], *, ask: bool = False) -> str:
    template = chat_template(conversation)
    rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=ask)
    return str(rendered[0])


def text(role: str, *parts: str) -> dict[str, Any]:
    kinds = {"<image>": {"type": "image"}, "<video>": {"type": "video"}}
    return {"role": role, "content": [kinds.get(part, {"type": "text", "text": part}) for part in parts]}


def test_turns_follow_one_another_as_in_the_original() -> None:
    messages = [text("user", "hi\n  there "), text("assistant", "yes"), {"role": "user", "content": "why?"}]
    assert prompt(SHORT, messages, ask=True) == "<SYS>Be kind.!<E>\n<U>hi\n  there <E>\n<A>yes<E>\n<U>why?<E>\n<A>"
    assert prompt(SHORT, messages[:2]) == "<SYS>Be kind.!<E>\n<U>hi\n  there <E>\n<A>yes<E>\n"


def test_a_system_message_replaces_the_default_even_when_it_is_empty() -> None:
    for words in ("Be brief.", ""):
        messages = [{"role": "system", "content": words}, text("user", "hi")]
        assert prompt(SHORT, messages) == f"<SYS>{words}!<E>\n<U>hi<E>\n"


def test_pictures_stand_on_lines_of_their_own() -> None:
    found = prompt(SHORT, [text("user", "<video>", "<image>", "which?")])
    assert found.endswith("<U><video>\n<IMG_CONTEXT>\nwhich?<E>\n")


def test_an_empty_turn_is_left_open_as_the_original_leaves_it() -> None:
    assert prompt(SHORT, [text("user", "")]) == "<SYS>Be kind.!<E>\n<U>"


def test_a_message_out_of_place_is_refused() -> None:
    for messages in ([text("user", "a"), text("system", "b")], [text("tool", "a")]):
        with pytest.raises(jinja2.TemplateError, match="cannot stand here"):
            prompt(SHORT, messages)


def test_words_with_quotes_and_braces_stay_as_they_are() -> None:
    odd = Conversation("{system_message}", "say \"{{ 1 }}\" and '{% x %}' \\ \n", ("<U>", "<A>"), "<E>")
    assert prompt(odd, [text("user", "{{ 2 }}")]) == "say \"{{ 1 }}\" and '{% x %}' \\ \n<E><U>{{ 2 }}<E>"


def test_the_folders_own_conversation_is_read_and_never_run(tmp_path: Path) -> None:
    (tmp_path / "conversation.py").write_text(
        "raise SystemExit('this file was run')\n"
        "register_conv_template(Conversation(name='other', sep_style=SeparatorStyle.MPT, sep='x', roles=('a', 'b')))\n"
        "register_conv_template(Conversation(\n"
        "    name='Hermes-2', system_template='S {system_message}', system_message='one ' 'two',\n"
        "    roles=('U', 'A'), sep_style=SeparatorStyle.MPT, sep='<end>', stop_token_ids=[2]))\n",
        "utf-8",
    )
    assert read_conversation(tmp_path, "Hermes-2") == Conversation("S {system_message}", "one two", ("U", "A"), "<end>")
    assert read_conversation(tmp_path, "phi3-chat").sep == "<|end|>"  # not in that file: the published one


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ("Conversation(name='Hermes-2', roles=('U', 'A'), sep_style=SeparatorStyle.CHATML)", "sep_style is not MPT"),
        ("Conversation(name='Hermes-2', roles=make(), sep_style=SeparatorStyle.MPT)", "not written out"),
        ("Conversation(name='Hermes-2'", "cannot be parsed"),
    ],
)
def test_a_conversation_that_cannot_be_read_off_is_refused(call: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "conversation.py").write_text(call, "utf-8")
    with pytest.raises(UserError, match=problem):
        read_conversation(tmp_path, "Hermes-2")


def test_an_unknown_template_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"template 'hermes2'.*did you mean 'Hermes-2'"):
        read_conversation(tmp_path, "hermes2")
