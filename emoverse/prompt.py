"""Turn rows and frames into a model's token ids and pixels: what training, inference and the token budget share.

A prompt is written as InternVL2's: a video is ``Frame1: <img>...</img>`` and so on, one line a frame; an image is
``<img>...</img>`` and a newline; the question follows (OpenGVLab/InternVL, ``chat`` and ``conversation.py``). Only
numpy and tokenizers are needed, so a model exported to ONNX reads its prompts with neither torch nor transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from emoverse.errors import UserError

# Private-use characters that stand for the three texts of a conversation while its template is rendered.
_SYSTEM, _USER, _ASSISTANT = "\ue000", "\ue001", "\ue002"
Row = Mapping[str, Any]
Ids = NDArray[np.int64]
_MEDIA = re.compile("<(video|image)>")


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
    config, processor = _read_json(folder, "config.json"), _read_json(folder, "processor_config.json")
    tokenizer = _read_json(folder, "tokenizer_config.json")
    if config.get("model_type") != "internvl":
        problem = f"its model_type is {config.get('model_type')!r}, not 'internvl'"
        raise UserError(problem, place=str(folder / "config.json"), remedy="give a transformers-native InternVL folder")
    pixels = processor["video_processor"]
    markers = _markers(folder)
    vocabulary = _vocabulary(folder)
    stop = _read_json(folder, "generation_config.json").get("eos_token_id")
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
    named = _read_json(folder, "tokenizer_config.json")
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
    added = _read_json(folder, "tokenizer.json")["added_tokens"]
    return {item["content"]: int(item["id"]) for item in added}


def _read_json(folder: Path, name: str) -> dict[str, Any]:
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


class Encoder:
    """Encode the rows and answers of one model; ``folder`` holds its ``tokenizer.json``."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError("no such file", place=str(path), remedy="give a complete model folder")
        self.settings = settings
        self.tokenizer = Tokenizer.from_file(str(path))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.image_id = self._id(settings.image_token)
        self.end_id = self._id(settings.end)
        # What the tokenizer itself puts before a text: <s> for InternLM2 and Phi-3, nothing for Qwen2.
        encoded = self.tokenizer.encode(settings.end, add_special_tokens=True).ids
        self.bos: list[int] = encoded[: encoded.index(self.end_id)]
        self._opening_ids = self._ids(settings.before_answer)
        self._think_start, self._think_end = map(self.tokenizer.token_to_id, ("<think>", "</think>"))
        self._forbidden = _any_of(self._reserved())
        self._mean = np.asarray(settings.mean, np.float32).reshape(3, 1, 1) * np.float32(255)
        self._std = np.asarray(settings.std, np.float32).reshape(3, 1, 1) * np.float32(255)

    def prompt(self, row: Row, frames: int) -> str:
        """Return the prompt of a row up to the place of its answer, with one image token a frame.

        Raises:
            UserError: The row does not show exactly one clip or image, or its text contains a token that would add
                media or roles to the prompt; the row is named.
        """
        texts = {str(message["role"]): str(message["content"]) for message in row["messages"]}
        question = texts.get("user", "")
        places = media_of(row["messages"])
        if len(row["messages"]) != len(texts) or places not in (["video"], ["image"]):
            problem = f"a row asks one question about one clip or image, this one about {len(places)}"
            raise UserError(problem, place=_row_name(row), remedy="build the dataset again with `emoverse build-amt`")
        for text in (texts.get("system", ""), _MEDIA.sub("", question)):
            if found := self._forbidden.search(text):
                problem = f"the text contains the model's control token {found.group()!r}"
                raise UserError(
                    problem, place=_row_name(row), remedy="build the dataset again with `emoverse build-amt`"
                )
        return self._opening(texts.get("system")) + self._question(question, iter([frames]))

    def prompt_ids(self, rows: Sequence[Row], frames: Sequence[int]) -> list[Ids]:
        """Return each row's prompt as token ids, every image token repeated for the patches of its frame."""
        texts = [self.prompt(row, count) for row, count in zip(rows, frames, strict=True)]
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)  # without offsets
        return [self._expanded(self._with_bos(encoding.ids)) for encoding in encodings]

    def answer_ids(self, answer: str) -> list[int]:
        """Return an answer's token ids as they follow a prompt's, the token that ends it included.

        An answer tokenised alone may begin differently: sentencepiece would put a space before it.

        Raises:
            UserError: The answer contains a control token, or its start merges with the prompt's last token.
        """
        if found := self._forbidden.search(answer):
            raise UserError(
                f"the answer {answer!r} contains the control token {found.group()!r}", remedy="choose another label"
            )
        whole = self._ids(self.settings.before_answer + answer + self.settings.end)
        if whole[: len(self._opening_ids)] != self._opening_ids:
            problem = f"the start of the answer {answer!r} merges with the prompt's last token"
            raise UserError(problem, remedy="begin it with a word, not with white space")
        return whole[len(self._opening_ids) :]

    def conversation_ids(self, messages: Sequence[Mapping[str, Any]], frames: Sequence[int]) -> tuple[list[int], Ids]:
        """Return a conversation's token ids and labels.

        Args:
            messages: An optional system message, then questions and answers in turn. After a last question the prompt
                is open.
            frames: Number of frames of each ``<video>`` or ``<image>`` of the questions.

        Returns:
            The ids, and labels (tokens,): -100 except for the answers and the token that ends each.
        """
        turns, counts = list(messages), iter(frames)
        system = str(turns.pop(0)["content"]) if turns and turns[0]["role"] == "system" else None
        ids: list[int] = []
        labels: list[int] = []
        for turn in turns:
            text = str(turn["content"])
            if turn["role"] == "assistant":
                added = self.answer_ids(text)
                labels += added
            else:
                # A later question starts as the first one does after its system message: with the token that ends a
                # turn, which the answer before it already has.
                opening = self.settings.with_system[1] if ids else self._opening(system)
                question = self._ids(opening + self._question(text, counts))
                added = self._expanded(question[1:] if ids else self._with_bos(question)).tolist()
                labels += [-100] * len(added)
            ids += added
        return ids, np.asarray(labels, np.int64)

    def text(self, ids: Sequence[int]) -> str:
        """Decode a generated reply without special tokens, a thinking block, and white space at either end.

        InternVL3.5 is neither asked nor trained to think, but knows ``<think>`` from Qwen3; a block that was not closed
        leaves no answer.
        """
        reply = list(ids)
        if self._think_end in reply:
            reply = reply[len(reply) - reply[::-1].index(self._think_end) :]
        elif self._think_start in reply:
            return ""
        return str(self.tokenizer.decode(reply, skip_special_tokens=True)).strip()

    def pixels(self, frames: NDArray[np.uint8], row: Row | None = None) -> NDArray[np.float32]:
        """Normalise uint8 RGB frames (n, height, width, 3) to float32 pixels (n, 3, height, width).

        Raises:
            UserError: The frames do not have the model's size: they were prepared for a different model.
        """
        if frames.shape[1:] != (*self.settings.size, 3):
            have, want = "x".join(map(str, frames.shape[1:3])), "x".join(map(str, self.settings.size))
            remedy = "set media.size in params.yaml to the model's and validate again"
            raise UserError(
                f"its frames are {have} pixels, the model expects {want}", place=_row_name(row), remedy=remedy
            )
        pixels = np.ascontiguousarray(frames.transpose(0, 3, 1, 2)).astype(np.float32)
        pixels -= self._mean
        pixels /= self._std
        return pixels

    def _media(self, kind: str, frames: int) -> str:
        frame = self.settings.image_start + self.settings.image_token + self.settings.image_end + "\n"
        return frame * frames if kind == "image" else "".join(f"Frame{i}: {frame}" for i in range(1, frames + 1))

    def _opening(self, system: str | None) -> str:
        before, after = self.settings.with_system
        return self.settings.without_system if system is None else before + system + after

    def _question(self, text: str, frames: Iterator[int]) -> str:
        return _MEDIA.sub(lambda match: self._media(match[1], next(frames)), text) + self.settings.before_answer

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _with_bos(self, ids: list[int]) -> list[int]:
        # A chat template may write <s> itself.
        return ids if ids[: len(self.bos)] == self.bos else [*self.bos, *ids]

    def _expanded(self, tokens: list[int]) -> Ids:
        ids = np.asarray(tokens, np.int64)
        # Tokenise one placeholder per frame and repeat its id: 8 x 256 placeholders cost more than the text does.
        return np.repeat(ids, np.where(ids == self.image_id, self.settings.tokens_per_frame, 1))

    def _id(self, token: str) -> int:
        index = self.tokenizer.token_to_id(token)
        if index is None:
            raise UserError(f"the tokenizer does not know {token!r}", remedy="give the tokenizer made with the model")
        return int(index)

    def _reserved(self) -> set[str]:
        known, own = self.tokenizer.get_added_tokens_decoder(), self.settings
        markers = "".join((*own.with_system, own.without_system, own.before_answer, own.end))
        closing = {known[token].content for token in (*own.stop, own.pad) if token in known}
        media = {own.image_token, own.image_start, own.image_end, own.video_token, "<video>", "<image>"}
        return media | closing | {token.content for token in known.values() if token.content in markers}


def media_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a conversation's questions show, in order: ``video`` or ``image``."""
    return [kind for turn in messages if turn["role"] == "user" for kind in _MEDIA.findall(str(turn["content"]))]


def _any_of(tokens: set[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))


def _row_name(row: Row | None) -> str:
    return str(row.get("channel", "a row")) if row else "a clip"
