"""Encode rows for ms-swift in InternVL2's own chat formats, with frames from our shards.

ms-swift's template for native InternVL writes ChatML with a newline after ``<|im_end|>``, which InternVL2 was not
trained on, breaks Phi-3's markers, and opens media files by path. The template here writes what the model folder's own
chat template says, by the code that writes the prompts at evaluation. Its ``_encode`` and ``_preprocess_inputs`` are
the methods that ms-swift's documentation names for custom templates.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from swift.template import TemplateMeta, register_template
from swift.template.templates.internvl import InternvlhfTemplate

from emoverse.prompt import Encoder, media_of, settings_of_model

NAME: Final = "emoverse_internvl2"
_CACHE_BYTES: Final = 512 << 20


class Frames(Protocol):
    """Frames by reference: uint8 RGB (frames, height, width, 3), as `media.frames.FrameStore` returns."""

    def __getitem__(self, reference: str) -> Any:
        """Return the frames of one reference."""


_frames: Frames | None = None


def register(frames: Frames) -> None:
    """Register the template NAME with ms-swift; from now on media references are looked up in ``frames``."""
    global _frames
    _frames = frames
    # The folder's chat template decides; ms-swift requires values for these fields.
    meta = TemplateMeta(
        NAME, prefix=[], prompt=["{{QUERY}}"], chat_sep=[], suffix=[["eos_token_id"]], template_cls=InternVL2Template
    )
    register_template(meta, exist_ok=True)


class InternVL2Template(InternvlhfTemplate):  # type: ignore[misc]
    """Encode rows as InternVL2 was trained on them.

    A conversation becomes the token ids of the text that the original code writes for it, with ``<s>`` in front where
    the tokenizer has one; answers and the tokens that end them are learned.

    Encoded rows are cached up to 512 MiB, as encoding takes about 40 % of a tiny model's step and a row is the same in
    every epoch. With more data the first rows stay cached and the others are encoded each time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cache: dict[str, dict[str, Any]] = {}
        self._free_bytes = _CACHE_BYTES

    @cached_property
    def encoder(self) -> Encoder:
        """Return the encoder of the model's folder; raise UserError when its chat format cannot be followed."""
        folder = Path(self.model_info.model_dir)
        return Encoder(folder, settings_of_model(folder))

    def encode(self, inputs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Encode a row of the dataset, or return it from the cache."""
        key = inputs.get("channel") if isinstance(inputs, dict) and self.mode == "train" else None
        if key is None or args or kwargs.get("return_template_inputs"):
            return dict(super().encode(inputs, *args, **kwargs))
        if key not in self._cache:
            encoded = dict(super().encode(inputs, **kwargs))
            pixels = encoded.get("pixel_values")
            size = 64 * len(encoded["input_ids"]) + (0 if pixels is None else pixels.numel() * pixels.element_size())
            if size > self._free_bytes:
                return encoded
            self._free_bytes -= size
            self._cache[key] = encoded
        return dict(self._cache[key])

    def _preprocess_inputs(self, inputs: Any) -> None:
        inputs.videos = [_frames_of(video) for video in inputs.videos]
        inputs.images = [_frames_of(image)[:1] for image in inputs.images]

    def _encode(self, inputs: Any) -> dict[str, Any]:
        turns = list(inputs.messages)
        if not self.is_training and turns[-1]["role"] == "assistant":
            turns.pop()  # to be answered, not learned
        system = [] if inputs.system is None else [{"role": "system", "content": inputs.system}]
        media = {"video": iter(inputs.videos), "image": iter(inputs.images)}
        shown = [next(media[kind]) for kind in media_of(turns)]
        ids, labels = self.encoder.conversation_ids([*system, *turns], [len(frames) for frames in shown])
        encoded = {"input_ids": ids, "labels": labels.tolist() if self.is_training else None, "loss_scale": None}
        if shown:
            pixels = np.concatenate([self.encoder.pixels(frames) for frames in shown])
            encoded["pixel_values"] = torch.from_numpy(pixels).to(self.model_info.torch_dtype)
        return encoded


def _frames_of(reference: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    # ms-swift turns an image's path into {"bytes": None, "path": ...} and leaves a video's alone
    if _frames is None:
        raise ValueError("no frames: call register first")
    name = reference["path"] if isinstance(reference, dict) else reference
    return np.asarray(_frames[name])
