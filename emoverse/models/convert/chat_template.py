"""Write InternVL2's own prompt format as a chat template.

The original builds its prompt in ``conversation.py`` (style MPT): system, then each turn's role, text and separator,
nothing between. A checkpoint's folder may bring its own copy with another system message: it is parsed, never run.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from emoverse.errors import UserError, did_you_mean
from emoverse.models.convert.config import image_size, tiles, tokens_per_tile
from emoverse.models.convert.tokenizers import IMAGE, IMAGE_END, IMAGE_START, VIDEO, Vocabulary


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

    Raises UserError for a name that is not InternVL2's, and for a format that is not written turn after turn (MPT).
    """
    source = folder / "conversation.py"
    own = _parse(source, str(name)) if source.is_file() else None
    if own is not None:
        return own
    if name not in _KNOWN:
        raise UserError(
            f"template {name!r} is not one of InternVL2's",
            place=str(folder / "config.json"),
            remedy=did_you_mean(str(name), _KNOWN),
        )
    return _KNOWN[name]


def chat_template(conversation: Conversation) -> str:
    """Return the Jinja template that writes exactly what the original's ``get_prompt()`` writes."""
    before, _, after = conversation.system_template.partition("{system_message}")
    user, assistant = conversation.roles
    words = {
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
    for mark, word in words.items():
        text = text.replace(mark, json.dumps(word, ensure_ascii=False))
    return text


def _parse(source: Path, name: str) -> Conversation | None:
    """Find ``Conversation(name=..., ...)`` in the text of conversation.py and read its literal arguments."""
    try:
        tree = ast.parse(source.read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be parsed ({error})", place=str(source), remedy="download it again") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Conversation":
            words = {word.arg: word.value for word in node.keywords if word.arg}
            if _literal(words.get("name")) == name:
                return _from_call(words, f"{source}:{node.lineno}")
    return None


def _from_call(words: dict[str, ast.expr], place: str) -> Conversation:
    style = words.get("sep_style")
    remedy = "give a checkpoint of the InternVL2 series"
    if not (isinstance(style, ast.Attribute) and style.attr == "MPT"):
        raise UserError("the template's sep_style is not MPT", place=place, remedy=remedy)
    defaults = {"system_template": "{system_message}", "system_message": "", "sep": "\n"}
    found = {f.name: _literal(words.get(f.name)) for f in fields(Conversation)}
    found = {key: defaults.get(key) if value is None else value for key, value in found.items()}
    roles = found.pop("roles")
    strings = all(isinstance(value, str) for value in found.values())
    if not strings or not isinstance(roles, tuple | list) or len(roles) != 2:
        raise UserError("the template's words are not written out as literals", place=place, remedy=remedy)
    return Conversation(**{key: str(value) for key, value in found.items()}, roles=(str(roles[0]), str(roles[1])))


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


FRAMES: Final = 8
# The original normalises as ImageNet does (internvl/train/constants.py), which is not the native processor's default.
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)


def write_processor(vocabulary: Vocabulary, template: str, config: dict[str, Any], out: Path) -> None:
    """Save an InternVLProcessor for the original ``config`` below ``out``, with every file older readers look for."""
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.backend,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=vocabulary.special,
        model_specific_special_tokens={
            "start_image_token": IMAGE_START,
            "end_image_token": IMAGE_END,
            "context_image_token": IMAGE,
            "video_token": VIDEO,
        },
        **vocabulary.named,
        **vocabulary.settings,
    )
    side = image_size(config)
    shared = {"size": {"height": side, "width": side}, "image_mean": list(_MEAN), "image_std": list(_STD)}
    patches = {"min_patches": min(int(config.get("min_dynamic_patch", 1)), tiles(config)), "max_patches": tiles(config)}
    images = GotOcr2ImageProcessor(**shared, crop_to_patches=tiles(config) > 1, **patches)
    videos = InternVLVideoProcessor(**shared, do_sample_frames=True, num_frames=FRAMES)
    processor = InternVLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=videos,
        image_seq_length=tokens_per_tile(config),
        chat_template=template,
    )
    processor.save_pretrained(out)
    images.save_pretrained(out)
    videos.save_pretrained(out)
