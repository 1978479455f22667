"""Measure whether a clip shows and plays anything: black, frozen, silent.

Pictures are measured on the frames that are chosen anyway. Sound is decoded only up to the first audible moment: for
nearly every clip that is a packet or two, so it is known whether all of a clip's sound is silent, but no share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

from emoverse.media.probe import ClipError, open_clip, raise_if_machine

Frame = NDArray[np.uint8]
# The defaults of FFmpeg's filters blackdetect and silencedetect.
DARK: Final = 0.10 * 255  # the brightest channel of a black pixel
BLACK_PIXELS: Final = 0.98  # share of black pixels in a black picture
SILENCE: Final = 0.001  # -60 dB: the largest sample of silence; full scale is 1
# A still picture that x264, x265 or VP9 coded again, at a key frame, differed by up to 23 at default quality. MPEG-4 at
# a low bit rate differs more, so the share of frozen frames is a lower bound. No mean is taken, as freezedetect does:
# only a mouth that moves changes some pixels by more than 100, but the mean by less than a still picture's noise.
CODING_NOISE: Final = 24  # of 255
SIDE: Final = 96  # points measured along the shorter side, at least


def thumbnail(frame: Frame) -> Frame:
    """Return every n-th pixel of a frame as ``(3, height, width)``, at least 96 along a side that has as many."""
    step = max(1, min(frame.shape[:2]) // SIDE)
    return np.ascontiguousarray(frame[::step, ::step].transpose(2, 0, 1))


def black_share(thumbnails: Mapping[int, Frame], chosen: Sequence[int]) -> float:
    """Return the share of the chosen frames (indices, repeats count once) that are black."""
    shares = [(thumbnails[index].max(axis=0) <= DARK).mean() for index in sorted(set(chosen))]
    return float(np.mean([share >= BLACK_PIXELS for share in shares]))


def frozen_share(thumbnails: Mapping[int, Frame], chosen: Sequence[int]) -> float | None:
    """Return the share of the chosen frames that equal the chosen one before them, of those that have one.

    None where only one frame was chosen.
    """
    ordered = [thumbnails[index] for index in sorted(set(chosen))]
    equal = [np.max(np.maximum(a, b) - np.minimum(a, b)) <= CODING_NOISE for a, b in pairwise(ordered)]
    return float(np.mean(equal)) if equal else None


def is_silent(path: Path) -> bool | None:
    """Return whether the whole sound track is silent; None without one, or when it cannot be decoded.

    No step needs the sound, so a broken track is no fault of the clip.

    Raises:
        MemoryError: The machine is out of memory.
        OSError: The machine is at fault in another way.
    """
    heard = None
    try:
        with open_clip(path, quick=True) as (container, _, _):
            stream = container.streams.best("audio")
            if stream is None or stream.codec_context is None:
                return None
            for frame in container.decode(stream):
                if loudest(frame) > SILENCE:
                    return False
                heard = True
    except (av.error.FFmpegError, ValueError, TypeError, ClipError) as error:
        raise_if_machine(error, decoding=True)
        return None
    return heard


def loudest(frame: Any) -> float:
    """Return the largest absolute sample of an audio frame, full scale is 1."""
    samples: NDArray[Any] = frame.to_ndarray()
    if samples.size == 0:
        return 0.0
    if samples.dtype == np.uint8:
        return float(np.abs(samples.astype(np.int16) - 128).max() / 128)
    largest = float(np.abs(samples.astype(np.float64)).max())
    return largest if samples.dtype.kind == "f" else largest / -float(np.iinfo(samples.dtype).min)
