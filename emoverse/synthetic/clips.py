"""Render frames and write them as clips with OpenFace tables."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np

from emoverse.synthetic.faces import (
    COLUMN,
    MAX_INTENSITY,
    OPENFACE_UNITS,
    Canvas,
    Expression,
    Floats,
    Frames,
    Identity,
    draw,
)

FPS: Final = 12
_CRF: Final = "28"
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
            sound.bit_rate = 12_000
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


PRESENCE_UNITS: Final = tuple(sorted((*OPENFACE_UNITS, 28)))
"""Units with a presence column (`AU01_c` ... `AU45_c`): AU 28 has no intensity."""

HEADER: Final = ", ".join(
    ["frame", "face_id", "timestamp", "confidence", "success"]
    + [f"AU{unit:02d}_r" for unit in OPENFACE_UNITS]
    + [f"AU{unit:02d}_c" for unit in PRESENCE_UNITS]
)
NOISE: Final = 0.10
"""Standard deviation of the measured about the drawn intensity."""


def write_units(path: Path, units: Floats, rng: np.random.Generator, separator: str = ", ") -> None:
    """Write action units as OpenFace does: measured with noise, present from an intensity of 1 on.

    Args:
        path: The table; its folder is made.
        units: True intensities, (T, 17), 0..5.
        rng: Source of the noise.
        separator: Between cells; releases of OpenFace write ", " or ",".
    """
    measured = np.clip(units + rng.normal(0.0, NOISE, units.shape), 0.0, MAX_INTENSITY).round(2)
    confidence = np.clip(rng.normal(0.96, 0.02, len(units)), 0.80, 0.98)
    lines = [HEADER.replace(", ", separator)]
    for index, row in enumerate(measured):
        present = [float(unit in COLUMN and row[COLUMN[unit]] >= 1.0) for unit in PRESENCE_UNITS]
        head = (f"{index + 1}", "0", f"{index / FPS:.3f}", f"{confidence[index]:.2f}", "1")
        cells = [*head, *(f"{value:.2f}" for value in row), *(f"{value:.1f}" for value in present)]
        lines.append(separator.join(cells))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode())


@dataclass(frozen=True)
class Rendered:
    """A clip's frames (T, H, W, 3) uint8 and its true unit intensities (T, 17), 0..5."""

    frames: Frames
    units: Floats


def render(
    identity: Identity,
    expression: Expression,
    size: int | tuple[int, int],
    fps: float,
    n_frames: int,
    rng: np.random.Generator,
) -> Rendered:
    """Draw a clip of `n_frames` at `fps`; size = pixels of a square side, or (width, height).

    The face fills the shorter side, so a centred square crop holds all of it. Raises ValueError when nothing
    can be drawn (no frames, a side under 16 px).
    """
    width, height = (size, size) if isinstance(size, int) else size
    if n_frames < 1 or min(width, height) < 16:
        raise ValueError(f"cannot draw {n_frames} frames of {width} x {height} px: at least 1 frame and 16 px a side")
    units = expression.intensities(n_frames, fps)
    speech = expression.speech(n_frames, fps)
    poses = _drift(n_frames, rng)
    frames = np.empty((n_frames, height, width, 3), dtype=np.uint8)
    for i in range(n_frames):
        canvas = Canvas((width, height), identity.background, poses[i])
        shares = {unit: float(units[i, k]) / MAX_INTENSITY for k, unit in enumerate(OPENFACE_UNITS)}
        draw(canvas, identity, shares, float(speech[i]))
        frames[i] = canvas.pixels()
    return Rendered(_light(frames, rng), units)


def _drift(n_frames: int, rng: np.random.Generator) -> Floats:
    """Return the head's pose in each frame, (T, 5): shift x and y, roll, zoom, yaw; a drift with a sway."""
    start = rng.normal(0.0, [0.03, 0.028, 0.05, 0.03, 0.07])
    slope = rng.normal(0.0, [0.018, 0.014, 0.02, 0.008, 0.02])
    sway = rng.normal(0.0, [0.008, 0.008, 0.008, 0.0, 0.0])
    time = np.linspace(-0.5, 0.5, n_frames)[:, None]
    poses = start + slope * time + sway * np.sin(2 * np.pi * (time * 1.3 + rng.random()))
    poses[:, 3] += 0.95
    return np.asarray(poses, dtype=np.float64)


def _light(frames: Frames, rng: np.random.Generator) -> Frames:
    """Light (T, H, W, 3) frames unevenly in time and from side to side, and add sensor noise."""
    n_frames, height, width, _ = frames.shape
    level = rng.uniform(0.78, 1.12) + rng.normal(0.0, 0.05) * np.linspace(-1, 1, n_frames)
    slope = rng.normal(0.0, 0.22) * np.linspace(-1, 1, width)
    gain = (level[:, None] * (1.0 + slope)).astype(np.float32)[:, None, :, None]
    tint = (1.0 + rng.normal(0.0, 0.03, 3)).astype(np.float32)
    noise = rng.standard_normal((n_frames, height, width, 1), dtype=np.float32) * np.float32(rng.uniform(1.0, 3.0))
    lit: Frames = np.clip(frames * (gain * tint) + noise, 0, 255).astype(np.uint8)
    return lit
