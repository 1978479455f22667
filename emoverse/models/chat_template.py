"""Write InternVL's own prompt formats as chat templates, and choose the one of a checkpoint.

The original builds its prompt in ``conversation.py`` (style MPT): system, then each turn's role, text and separator,
nothing between. A checkpoint's folder may contain its own copy with another system message: it is parsed, never run.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from emoverse.errors import UserError, did_you_mean
from emoverse.models.architecture import TABLE, Architecture
from emoverse.models.tokenizers import IMAGE, VIDEO, Vocabulary
from emoverse.prompt import read_markers


@dataclass(frozen=True)
class Conversation:
    """One prompt format; ``roles`` are the user's and the assistant's openings, ``sep`` closes every turn."""

    system_template: str
    system_message: str
    roles: tuple[str, str]
    sep: str


_INTERNVL2: Final = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
_INTERNVL2_5: Final = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)
_CHATML: Final = Conversation(
    "<|im_start|>system\n{system_message}", _INTERNVL2, ("<|im_start|>user\n", "<|im_start|>assistant\n"), "<|im_end|>"
)
_PHI3: Final = Conversation("<|system|>\n{system_message}", _INTERNVL2, ("<|user|>\n", "<|assistant|>\n"), "<|end|>")
_KNOWN: Final = {
    "Hermes-2": _CHATML,
    "internlm2-chat": _CHATML,
    "phi3-chat": _PHI3,
    "internvl2_5": replace(_CHATML, system_message=_INTERNVL2_5, sep="<|im_end|>\n"),
}
# What ms-swift calls the same formats for the checkpoints that have them.
_SWIFT: Final = {
    "Hermes-2": "internvl2",
    "internlm2-chat": "internvl2",
    "phi3-chat": "internvl2_phi3",
    "internvl2_5": "internvl2_5",
}


@dataclass(frozen=True)
class ChatFormat:
    """A checkpoint's prompt format: the Jinja ``text``, the token that ends an answer, and ms-swift's name of it."""

    text: str
    end: str
    swift_name: str


def chat_format(architecture: Architecture, folder: Path, vocabulary: Vocabulary) -> ChatFormat:
    """Return the prompt format that a checkpoint was trained with.

    A native model's is its own chat template, or InternVL2.5's where that is the template of Qwen3 alone, which knows
    no images and adds empty thinking blocks.

    Raises:
        UserError: The format cannot be followed.
    """
    if architecture.layout == "original":
        conversation = read_conversation(folder, architecture.template)
        if architecture.system_message is not None:
            conversation = replace(conversation, system_message=architecture.system_message)
        name = _SWIFT.get(architecture.template, "internvl2_5")
        if architecture.language_model.startswith("Qwen3"):
            name = "internvl3_5"
        return ChatFormat(chat_template(conversation), conversation.sep.strip(), name)
    added = [token.content for token in vocabulary.backend.get_added_tokens_decoder().values()]
    text = architecture.template
    try:
        if "think" in text and IMAGE not in text:
            text = chat_template(_KNOWN["internvl2_5"])
        end = str(read_markers(text, vocabulary.named, added)["end"])
    except ValueError as error:
        problem = f"its chat template cannot be followed ({error})"
        raise UserError(problem, place=str(folder), remedy=f"see {TABLE} for what a base may be") from None
    return ChatFormat(text, end, "internvl_hf")


# An image is InternVLProcessor's placeholder, which it turns into <img>..</img>; a video becomes one line per frame.
# An empty turn is written without its separator: the original takes an empty text for a turn still to come.
_TEMPLATE: Final = """\
{%- macro text(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- else -%}
    {%- for part in content -%}
      {%- if part['type'] == 'image' -%}
        {{- @IMAGE -}}
      {%- elif part['type'] == 'video' -%}
        {{- @VIDEO -}}
      {%- else -%}
        {{- part['text'] -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- set system = @SYSTEM -%}
{%- if messages and messages[0]['role'] == 'system' -%}
  {%- set system = text(messages[0]['content']) -%}
{%- endif -%}
{{- @BEFORE + system + @AFTER + @SEP -}}
{%- for message in messages -%}
  {%- if message['role'] in ('user', 'assistant') -%}
    {%- set said = text(message['content']) -%}
    {{- @USER if message['role'] == 'user' else @ASSISTANT -}}
    {%- if said -%}
      {{- said + @SEP -}}
    {%- endif -%}
  {%- elif not loop.first or message['role'] != 'system' -%}
    {{- raise_exception('a ' + message['role'] + ' message cannot stand here: system, then user and assistant') -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- @ASSISTANT -}}
{%- endif -%}
"""


def read_conversation(folder: Path, name: Any) -> Conversation:
    """Return the prompt format that config.json's ``template`` names, as the folder's own conversation.py has it.

    Raises:
        UserError: The name is not InternVL's, or the format is not written turn after turn (MPT).
    """
    source = folder / "conversation.py"
    own = _parse(source, str(name)) if source.is_file() else None
    if own is not None:
        return own
    if name not in _KNOWN:
        raise UserError(
            f"template {name!r} is not one of InternVL's",
            place=str(folder / "config.json"),
            remedy=did_you_mean(str(name), _KNOWN),
        )
    return _KNOWN[name]


def chat_template(conversation: Conversation) -> str:
    """Return the Jinja template that writes exactly what the original's ``get_prompt()`` writes."""
    before, _, after = conversation.system_template.partition("{system_message}")
    user, assistant = conversation.roles
    strings = {
        "@IMAGE": f"{IMAGE}\n",
        "@VIDEO": f"{VIDEO}\n",
        "@SYSTEM": conversation.system_message,
        "@BEFORE": before,
        "@AFTER": after,
        "@SEP": conversation.sep,
        "@USER": user,
        "@ASSISTANT": assistant,
    }
    text = _TEMPLATE
    for mark, string in strings.items():
        text = text.replace(mark, json.dumps(string, ensure_ascii=False))
    return text


def _parse(source: Path, name: str) -> Conversation | None:
    """Find ``Conversation(name=..., ...)`` in the text of conversation.py and read its literal arguments."""
    try:
        tree = ast.parse(source.read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be parsed ({error})", place=str(source), remedy="download it again") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Conversation":
            arguments = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
            if _literal(arguments.get("name")) == name:
                return _from_call(arguments, f"{source}:{node.lineno}")
    return None


def _from_call(arguments: dict[str, ast.expr], place: str) -> Conversation:
    style = arguments.get("sep_style")
    remedy = "give a checkpoint as OpenGVLab published it"
    if not (isinstance(style, ast.Attribute) and style.attr == "MPT"):
        raise UserError("the template's sep_style is not MPT", place=place, remedy=remedy)
    defaults = {"system_template": "{system_message}", "system_message": "", "sep": "\n"}
    values = {f.name: _literal(arguments.get(f.name)) for f in fields(Conversation)}
    values = {key: defaults.get(key) if value is None else value for key, value in values.items()}
    roles = values.pop("roles")
    strings = all(isinstance(value, str) for value in values.values())
    if not strings or not isinstance(roles, tuple | list) or len(roles) != 2:
        raise UserError("the template's strings are not written out as literals", place=place, remedy=remedy)
    return Conversation(**{key: str(value) for key, value in values.items()}, roles=(str(roles[0]), str(roles[1])))


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None
