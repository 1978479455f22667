"""Render talking close-up faces from action units: identity and performance in, frames and intensities out.

    who, smile = Identity.from_seed(7), Performance({6: 3.0, 12: 4.0})
    clip = render(who, smile, size=96, fps=12, n_frames=15, rng=np.random.default_rng(1))
    clip.frames     # (T, H, W, 3) uint8 RGB
    clip.units      # (T, 17) float64, the true AU01 ... AU45 of each frame, 0..5, columns as OPENFACE_UNITS

A drawing is a pure function of its arguments and the generator's state. `rng` supplies what is neither person
nor expression: head drift, light and noise.
"""

from dataclasses import dataclass

import numpy as np

from emoverse.synthetic.identity import Identity
from emoverse.synthetic.performance import Performance
from emoverse.synthetic.portrait import draw
from emoverse.synthetic.sketch import Sketch
from emoverse.synthetic.units import MAX_INTENSITY, OPENFACE_UNITS, Floats, Frames

__all__ = ["Identity", "Performance", "Rendered", "render"]


@dataclass(frozen=True)
class Rendered:
    """Hold a clip's frames (T, H, W, 3) uint8 and its true unit intensities (T, 17), 0..5."""

    frames: Frames
    units: Floats


def render(
    identity: Identity,
    performance: Performance,
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
    units = performance.intensities(n_frames, fps)
    speech = performance.speech(n_frames, fps)
    poses = _drift(n_frames, rng)
    frames = np.empty((n_frames, height, width, 3), dtype=np.uint8)
    for i in range(n_frames):
        sketch = Sketch((width, height), identity.background, poses[i])
        shares = {unit: float(units[i, k]) / MAX_INTENSITY for k, unit in enumerate(OPENFACE_UNITS)}
        draw(sketch, identity, shares, float(speech[i]))
        frames[i] = sketch.pixels()
    return Rendered(_light(frames, rng), units)


def _drift(n_frames: int, rng: np.random.Generator) -> Floats:
    """Return the head's pose in each frame, (T, 4): shift x and y, roll, zoom; a drift with a sway."""
    start = rng.normal(0.0, [0.022, 0.02, 0.028, 0.018])
    slope = rng.normal(0.0, [0.018, 0.014, 0.02, 0.008])
    sway = rng.normal(0.0, [0.008, 0.008, 0.008, 0.0])
    time = np.linspace(-0.5, 0.5, n_frames)[:, None]
    poses = start + slope * time + sway * np.sin(2 * np.pi * (time * 1.3 + rng.random()))
    poses[:, 3] += 1.0
    return np.asarray(poses, dtype=np.float64)


def _light(frames: Frames, rng: np.random.Generator) -> Frames:
    """Light (T, H, W, 3) frames unevenly in time and from side to side, and add sensor noise."""
    n_frames, height, width, _ = frames.shape
    level = rng.uniform(0.78, 1.12) + rng.normal(0.0, 0.05) * np.linspace(-1, 1, n_frames)
    slope = rng.normal(0.0, 0.13) * np.linspace(-1, 1, width)
    gain = (level[:, None] * (1.0 + slope)).astype(np.float32)[:, None, :, None]
    tint = (1.0 + rng.normal(0.0, 0.03, 3)).astype(np.float32)
    noise = rng.standard_normal((n_frames, height, width, 1), dtype=np.float32) * np.float32(rng.uniform(1.0, 3.0))
    lit: Frames = np.clip(frames * (gain * tint) + noise, 0, 255).astype(np.uint8)
    return lit
