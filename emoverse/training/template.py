"""Teach ms-swift InternVL2's own chat format, and where our frames lie.

ms-swift's template for native InternVL writes a newline after ``<|im_end|>``, which InternVL2 was not trained on, and
opens media files by path. Importing this module registers the template NAME, which does neither.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
from PIL import Image
from swift.template import TemplateMeta, register_template
from swift.template.templates.internvl import InternvlhfTemplate

NAME: Final = "emoverse_internvl2"
SYSTEM: Final = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
"""What InternVL2 is told when a conversation has no system prompt (internvl/conversation.py)."""

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

    Encoded rows are kept while they fit in 512 MiB, as about 40 % of a tiny model's step is encoding; a row is the
    same in every epoch. With more data the first rows stay and the others are encoded each time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept: dict[str, dict[str, Any]] = {}
        self._room = _CACHE_BYTES

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
        inputs.images = [Image.fromarray(_lookup(image)[0]) for image in inputs.images]
        super()._preprocess_inputs(inputs)


def _lookup(reference: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    # ms-swift turns an image's path into {"bytes": None, "path": ...} and leaves a video's alone
    if _frames is None:
        raise ValueError("no frames to look up: call use_frames first")
    name = reference["path"] if isinstance(reference, dict) else reference
    return np.asarray(_frames[name])


register_template(
    TemplateMeta(
        NAME,
        prefix=[],
        system_prefix=["<|im_start|>system\n{{SYSTEM}}<|im_end|>"],
        prompt=["<|im_start|>user\n{{QUERY}}<|im_end|><|im_start|>assistant\n"],
        chat_sep=["<|im_end|>"],
        suffix=["<|im_end|>"],
        default_system=SYSTEM,
        template_cls=InternVL2Template,
    ),
    exist_ok=True,
)
