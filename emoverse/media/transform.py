"""Turn a decoded frame into the picture a model sees, and into bytes for a shard."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from emoverse.config import MediaParams

Frame = NDArray[np.uint8]
JPEG_QUALITY: Final = 95
TORCH_FROM: Final = 224  # pixels


def picture(frame: Frame, params: MediaParams, *, without_torch: bool = False) -> Image.Image:
    """Crop, resize and colour one RGB frame ``(height, width, 3)``; return a square picture, RGB or grey ("L").

    ``crop: squash`` resizes the whole frame to a square, as InternVL2 does with one tile a frame; ``center`` cuts the
    centred square first, which keeps the proportions of a face. Resizing is bicubic with antialiasing, as InternVL2's.
    ``without_torch`` has PIL resize where torchvision would, for a process that must not take the time to load it.
    """
    if params.crop == "center":
        left, upper, right, lower = centred_square(frame.shape[1], frame.shape[0])
        frame = frame[upper:lower, left:right]
    height, width = frame.shape[:2]
    # Only where width grows and height shrinks do the two libraries round in another order, and differ visibly.
    if not without_torch and uses_torch(params) and not width < params.size < height:
        return Image.fromarray(_resized(frame, params.size))
    image = Image.fromarray(frame)
    if params.colour == "grey-equalised":
        image = image.convert("L")  # before resizing: a third of the work
    image = image.resize((params.size, params.size), Image.Resampling.BICUBIC)
    return ImageOps.equalize(image) if params.colour == "grey-equalised" else image


def uses_torch(params: MediaParams) -> bool:
    """Tell whether pictures are resized by torchvision instead of PIL: large RGB ones, where it is four times faster.

    It is what transformers' own InternVL processor calls, and differs from PIL, which InternVL2's model card calls, by
    one of 255 in about one value of a hundred. For small pictures importing torch would cost more than it saves.
    """
    return params.colour == "rgb" and params.size >= TORCH_FROM


def _resized(frame: Frame, size: int) -> Frame:
    import torch
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    torch.set_num_threads(1)  # the pool already runs a process on each core
    # Channels last in memory, as the frame is: the fast path for bytes needs it.
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
    small = resize(pixels, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return np.ascontiguousarray(small.permute(1, 2, 0).numpy())


def centred_square(width: int, height: int) -> tuple[int, int, int, int]:
    """Return the (left, upper, right, lower) pixels of the largest centred square."""
    side = min(width, height)
    left, upper = (width - side) // 2, (height - side) // 2
    return left, upper, left + side, upper + side


def encode(image: Image.Image, params: MediaParams) -> bytes:
    """Encode a picture as PNG (exact) or JPEG (quality 95, full colour resolution); the same pixels, the same bytes."""
    stream = io.BytesIO()
    if params.encoding == "png":
        # Level 1 is four times faster than the default for a sixth more bytes.
        image.save(stream, "PNG", compress_level=1)
    else:
        image.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def decode(blob: bytes) -> Frame:
    """Decode one stored frame to uint8 RGB ``(height, width, 3)``; grey comes back as three equal channels."""
    with Image.open(io.BytesIO(blob)) as image:
        return np.asarray(image.convert("RGB"))


def shape_of(blob: bytes) -> tuple[int, int, int]:
    """Return ``(height, width, 3)`` of a stored frame from its header alone."""
    with Image.open(io.BytesIO(blob)) as image:
        return image.height, image.width, 3
