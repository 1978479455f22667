"""Describe what a drawn person does in one clip: which action units move, how far and when."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from emoverse.synthetic.units import COLUMN, EXPRESSIVE_UNITS, MAX_INTENSITY, OPENFACE_UNITS, Floats

_BLINK_SECONDS = 0.12


def _ease(position: Floats) -> Floats:
    t = np.clip(position, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@dataclass(frozen=True)
class Performance:
    """Hold the units' peak intensities (0..5) and the clip's timing.

    `onset` < `apex` <= `offset` are shares of the clip's length: movement starts at onset, is full from apex
    to offset and then sinks towards `residual` (share of the peak left on the last frame: offsets are partial).
    `talk` (0..1) is how far the jaw moves in speech, `talk_rate` in syllables a second; `blinks` are shares of
    the clip's length. Raises ValueError for a unit that cannot be set or an intensity out of range.
    """

    peaks: Mapping[int, float] = field(default_factory=dict)
    onset: float = 0.1
    apex: float = 0.45
    offset: float = 0.75
    residual: float = 0.5
    talk: float = 0.6
    talk_rate: float = 4.0
    talk_phase: float = 0.0
    blinks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        for unit, peak in self.peaks.items():
            if unit not in EXPRESSIVE_UNITS:
                raise ValueError(f"AU{unit:02d} cannot be set; choose from {EXPRESSIVE_UNITS}")
            if not 0.0 <= peak <= MAX_INTENSITY:
                raise ValueError(f"AU{unit:02d} intensity {peak} is outside 0..{MAX_INTENSITY:g}")
        if not 0.0 <= self.onset < self.apex <= self.offset <= 1.0:
            raise ValueError(f"onset {self.onset}, apex {self.apex}, offset {self.offset} are not in order within 0..1")

    def speech(self, n_frames: int, fps: float) -> Floats:
        """Return the jaw's opening by speech alone, (T,), 0..1."""
        seconds = np.arange(n_frames) / fps
        syllable = 0.5 - 0.5 * np.cos(2 * np.pi * (self.talk_rate * seconds + self.talk_phase))
        phrase = 0.75 + 0.25 * np.sin(2 * np.pi * (0.9 * seconds + 0.37 * self.talk_phase))
        return np.asarray(self.talk * syllable * phrase, dtype=np.float64)

    def eyelids(self, n_frames: int, fps: float) -> Floats:
        """Return how far blinks close the eyes, (T,), 0 open to 1 shut."""
        seconds = np.arange(n_frames) / fps
        closed = np.zeros(n_frames)
        for blink in self.blinks:
            closed = np.maximum(closed, 1.0 - np.abs(seconds - blink * n_frames / fps) / _BLINK_SECONDS)
        return np.clip(closed, 0.0, 1.0)

    def intensities(self, n_frames: int, fps: float) -> Floats:
        """Return the true intensity of each OpenFace unit in each frame, (T, 17), 0..5."""
        position = np.linspace(0.0, 1.0, n_frames)
        rise = _ease((position - self.onset) / (self.apex - self.onset))
        fall = _ease((position - self.offset) / max(1.0 - self.offset, 1e-6))
        course = rise * (1.0 - (1.0 - self.residual) * fall)
        table = np.zeros((n_frames, len(OPENFACE_UNITS)))
        for unit, peak in self.peaks.items():
            table[:, COLUMN[unit]] = peak * course
        table[:, COLUMN[25]] = 3.0 * self.speech(n_frames, fps) + 0.6 * table[:, COLUMN[26]]
        table[:, COLUMN[45]] = MAX_INTENSITY * self.eyelids(n_frames, fps)
        return np.clip(table, 0.0, MAX_INTENSITY)
