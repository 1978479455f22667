"""Turn a row of AMT and its frames into token ids and pixels, as InternVL2 writes its prompts.

A video is ``Frame1: <img>...</img>`` and so on, one line a frame; an image is ``<img>...</img>`` and a newline; the
question follows (OpenGVLab/InternVL, ``chat`` and ``conversation.py``). Needs numpy and tokenizers alone, so a model
exported to ONNX reads its prompts with neither torch nor transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from emoverse.errors import UserError
from emoverse.prompt.model_settings import Settings

Row = Mapping[str, Any]
Ids = NDArray[np.int64]
_MEDIA = re.compile("<(video|image)>")


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
            raise UserError(problem, place=_name(row), remedy="build the dataset again with `emoverse build-amt`")
        for text in (texts.get("system", ""), _MEDIA.sub("", question)):
            if found := self._forbidden.search(text):
                problem = f"the text contains the model's control token {found.group()!r}"
                raise UserError(problem, place=_name(row), remedy="build the dataset again with `emoverse build-amt`")
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
            raise UserError(f"its frames are {have} pixels, the model expects {want}", place=_name(row), remedy=remedy)
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


def _name(row: Row | None) -> str:
    return str(row.get("channel", "a row")) if row else "a clip"
