"""Read a model's chat markers, image and stop tokens and pixel statistics from its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emoverse.errors import UserError

# Private-use characters that stand for the three texts of a conversation while its template is rendered.
_SYSTEM, _USER, _ASSISTANT = "\ue000", "\ue001", "\ue002"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a conversation becomes tokens and frames become pixels for one model.

    ``with_system`` is the text before the system message and between it and the question; ``without_system`` the text
    before the question where there is no system message; ``before_answer`` follows the question. ``end`` is the token
    that closes an answer and ``stop`` every token id that ends a generation. ``size`` is (height, width) in pixels,
    ``mean`` and ``std`` are those of channels scaled to 0..1.
    """

    with_system: tuple[str, str]
    without_system: str
    before_answer: str
    end: str
    stop: tuple[int, ...]
    pad: int
    image_token: str
    image_start: str
    image_end: str
    video_token: str
    tokens_per_frame: int
    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON-like values."""
        return dict(json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Settings:
        """Read what ``as_json`` wrote; raise TypeError when a key is missing or unknown."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()
        }
        return cls(**values)


def settings_of_model(folder: Path) -> Settings:
    """Derive the settings from a transformers-native InternVL folder, with neither torch nor transformers.

    Raises:
        UserError: A file is missing or not JSON, or the chat template does not render system, question, answer.
    """
    config, processor = _json(folder, "config.json"), _json(folder, "processor_config.json")
    tokenizer = _json(folder, "tokenizer_config.json")
    if config.get("model_type") != "internvl":
        problem = f"its model_type is {config.get('model_type')!r}, not 'internvl'"
        raise UserError(problem, place=str(folder / "config.json"), remedy="give a transformers-native InternVL folder")
    pixels = processor["video_processor"]
    markers = _markers(folder)
    vocabulary = _vocabulary(folder)
    stop = _json(folder, "generation_config.json").get("eos_token_id")
    stops = {vocabulary[markers["end"]], *(stop if isinstance(stop, list) else [stop] if stop is not None else [])}
    pad = vocabulary.get(str(tokenizer.get("pad_token")), min(stops))
    names = {token: name for name, token in vocabulary.items()}
    return Settings(
        **markers,
        stop=tuple(sorted(stops)),
        pad=pad,
        image_token=names[int(config["image_token_id"])],
        image_start=str(tokenizer.get("start_image_token", "<img>")),
        image_end=str(tokenizer.get("end_image_token", "</img>")),
        video_token=str(tokenizer.get("video_token", "<video>")),
        tokens_per_frame=int(processor["image_seq_length"]),
        size=(int(pixels["size"]["height"]), int(pixels["size"]["width"])),
        mean=_three(pixels["image_mean"]),
        std=_three(pixels["image_std"]),
    )


def read_markers(source: str, named: Mapping[str, str], added: Iterable[str]) -> dict[str, Any]:
    """Read from a chat template's text what it writes around system message, question and answer.

    Args:
        source: The template, in Jinja.
        named: The tokens it may use by name, such as ``bos_token``.
        added: The tokenizer's added tokens, among them the one that ends an answer.

    Returns:
        The first four fields of `Settings`.

    Raises:
        ValueError: The template cannot be rendered, or writes a turn differently when other turns surround it.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse

    def render(*turns: tuple[str, str], question: bool) -> str:
        messages = [{"role": role, "content": text} for role, text in turns]
        return str(template.render(messages=messages, add_generation_prompt=question, **named))

    system, user, assistant = ("system", _SYSTEM), ("user", _USER), ("assistant", _ASSISTANT)
    try:
        template = environment.from_string(source)
        first, rest = render(system, user, question=True).split(_SYSTEM)
        second, before_answer = rest.split(_USER)
        without, again = render(user, question=True).split(_USER)
        answered = render(system, user, assistant, question=False)
    except jinja2.TemplateError as error:
        raise ValueError(str(error)) from error
    closing = answered.split(_ASSISTANT)[1]
    end = next((token for token in sorted(added, key=len, reverse=True) if closing.startswith(token)), None)
    if end is None:
        raise ValueError("no token ends an answer")
    if again != before_answer or answered != f"{first}{_SYSTEM}{second}{_USER}{before_answer}{_ASSISTANT}{closing}":
        raise ValueError("a turn is rendered differently when other turns surround it")
    return {"with_system": (first, second), "without_system": without, "before_answer": before_answer, "end": end}


def _markers(folder: Path) -> dict[str, Any]:
    path = folder / "chat_template.jinja"
    named = _json(folder, "tokenizer_config.json")
    tokens = {key: value for key, value in named.items() if isinstance(value, str) and key.endswith("_token")}
    try:
        return read_markers(path.read_text("utf-8"), tokens, _vocabulary(folder))
    except FileNotFoundError:
        raise UserError("no such file", place=str(path), remedy="give a complete model folder") from None
    except ValueError as error:
        problem = f"not a chat template this engine can follow ({error})"
        remedy = "use InternVL's own format (`emoverse base-model` writes one)"
        raise UserError(problem, place=str(path), remedy=remedy) from error


def _refuse(message: str) -> None:
    raise ValueError(message)


def _vocabulary(folder: Path) -> dict[str, int]:
    added = _json(folder, "tokenizer.json")["added_tokens"]
    return {item["content"]: int(item["id"]) for item in added}


def _json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        raise UserError("no such file", place=str(path), remedy="give a complete model folder") from None
    except ValueError as error:
        raise UserError(f"not valid JSON ({error})", place=str(path), remedy="make the model folder again") from error


def _three(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
