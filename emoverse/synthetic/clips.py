"""Write drawn frames as small H.264 clips, the same bytes each time on one machine."""

from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np

from emoverse.synthetic.units import Floats, Frames

FPS: Final = 12
_CRF: Final = "25"
_X264: Final = "threads=1:mbtree=0"
# x264's macroblock tree reads memory it never wrote where half the width is not a multiple of 16 or so (96 and 112 px
# are such): the same frames then give other bytes each time, which MALLOC_PERTURB_ shows.
_AUDIO_RATE: Final = 16_000


def write_clip(path: Path, frames: Frames, voice: Floats | None = None) -> None:
    """Write (T, H, W, 3) frames at 12 fps; `voice` (T,), 0..1, adds a murmur as AAC when given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n_frames, height, width, _ = frames.shape
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"crf": _CRF, "preset": "medium", "flags": "+bitexact", "x264-params": _X264}
        video.codec_context.thread_count = 1
        sound = container.add_stream("aac", rate=_AUDIO_RATE, layout="mono") if voice is not None else None
        if sound is not None:
            sound.bit_rate = 24_000
            sound.codec_context.options = {"flags": "+bitexact"}
        for index in range(n_frames):
            frame = av.VideoFrame.from_ndarray(frames[index], format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None and voice is not None:
            for start, chunk in _murmur(voice):
                block = av.AudioFrame.from_ndarray(chunk[None], format="fltp", layout="mono")
                block.sample_rate, block.pts, block.time_base = _AUDIO_RATE, start, Fraction(1, _AUDIO_RATE)
                container.mux(sound.encode(block))
            container.mux(sound.encode(None))


def _murmur(voice: Floats) -> list[tuple[int, np.ndarray[tuple[int], np.dtype[np.float32]]]]:
    """Return (first sample, block of 1024 samples) of a hum that is as loud as the jaw is open."""
    n_samples = len(voice) * _AUDIO_RATE // FPS // 1024 * 1024
    seconds = np.arange(n_samples) / _AUDIO_RATE
    loud = np.interp(seconds, np.arange(len(voice)) / FPS, voice)
    tone = np.sin(2 * np.pi * 140 * seconds) + 0.5 * np.sin(2 * np.pi * 420 * seconds)
    signal = (0.2 * loud * tone).astype(np.float32)
    return [(start, signal[start : start + 1024]) for start in range(0, n_samples, 1024)]
