"""Teach ms-swift InternVL2's own chat formats, and where our frames lie.

ms-swift's template for native InternVL writes ChatML with a newline after ``<|im_end|>``, which InternVL2 was not
trained on, breaks Phi-3's markers, and opens media files by path. Importing this module registers the template NAME,
which writes what the model folder's own chat template says, by the code that asks the model at evaluation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from swift.template import TemplateMeta, register_template
from swift.template.templates.internvl import InternvlhfTemplate

from emoverse.prompt.encode import Encoder, media_of
from emoverse.prompt.model_settings import settings_of_model

NAME: Final = "emoverse_internvl2"
_CACHE_BYTES: Final = 512 << 20


class Frames(Protocol):
    """Whatever gives uint8 RGB (frames, height, width, 3) for a reference, as `media.frames.FrameStore` does."""

    def __getitem__(self, reference: str) -> Any:
        """Return the frames of one reference."""


_frames: Frames | None = None


def use_frames(frames: Frames) -> None:
    """Resolve media references by ``frames[reference]`` -> uint8 (frames, height, width, 3) from now on."""
    global _frames
    _frames = frames


class InternVL2Template(InternvlhfTemplate):  # type: ignore[misc]
    """Encode rows as InternVL2 was trained on them, with frames from our shards.

    A conversation becomes the ids of the original's one text for it, ``<s>`` before it where the tokenizer has one;
    answers and the tokens that end them are learned.

    Encoded rows are kept while they fit in 512 MiB, as about 40 % of a tiny model's step is encoding; a row is the
    same in every epoch. With more data the first rows stay and the others are encoded each time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept: dict[str, dict[str, Any]] = {}
        self._room = _CACHE_BYTES

    def init_processor(self, processor: Any) -> None:
        """Read the chat format of the model's folder; raise UserError when it cannot be followed."""
        if processor is not None and not self._processor_inited:
            super().init_processor(processor)
            folder = Path(self.model_info.model_dir)
            self.encoder = Encoder(folder, settings_of_model(folder))

    def encode(self, inputs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Encode a row of the dataset, from memory where it has been encoded before."""
        key = inputs.get("channel") if isinstance(inputs, dict) and self.mode == "train" else None
        if key is None or args or kwargs.get("return_template_inputs"):
            return dict(super().encode(inputs, *args, **kwargs))
        if key not in self._kept:
            encoded = dict(super().encode(inputs, **kwargs))
            pixels = encoded.get("pixel_values")
            size = 64 * len(encoded["input_ids"]) + (0 if pixels is None else pixels.numel() * pixels.element_size())
            if size > self._room:
                return encoded
            self._room -= size
            self._kept[key] = encoded
        return dict(self._kept[key])

    def _preprocess_inputs(self, inputs: Any) -> None:
        inputs.videos = [_lookup(video) for video in inputs.videos]
        inputs.images = [_lookup(image)[:1] for image in inputs.images]

    def _encode(self, inputs: Any) -> dict[str, Any]:
        turns = list(inputs.messages)
        if not self.is_training and turns[-1]["role"] == "assistant":
            turns.pop()  # to be answered, not learned
        system = [] if inputs.system is None else [{"role": "system", "content": inputs.system}]
        waiting = {"video": iter(inputs.videos), "image": iter(inputs.images)}
        shown = [next(waiting[kind]) for kind in media_of(turns)]
        ids, labels = self.encoder.conversation_ids([*system, *turns], [len(frames) for frames in shown])
        encoded = {"input_ids": ids, "labels": labels.tolist() if self.is_training else None, "loss_scale": None}
        if shown:
            pixels = np.concatenate([self.encoder.pixels(frames) for frames in shown])
            encoded["pixel_values"] = torch.from_numpy(pixels).to(self.model_info.torch_dtype)
        return encoded


def _lookup(reference: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    # ms-swift turns an image's path into {"bytes": None, "path": ...} and leaves a video's alone
    if _frames is None:
        raise ValueError("no frames to look up: call use_frames first")
    name = reference["path"] if isinstance(reference, dict) else reference
    return np.asarray(_frames[name])


# The folder's chat template decides; ms-swift wants these places filled.
register_template(
    TemplateMeta(
        NAME, prefix=[], prompt=["{{QUERY}}"], chat_sep=[], suffix=[["eos_token_id"]], template_cls=InternVL2Template
    ),
    exist_ok=True,
)
