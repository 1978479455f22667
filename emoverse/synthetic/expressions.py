"""Turn emotions into facial action units over time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Frames: TypeAlias = NDArray[np.uint8]

OPENFACE_UNITS: Final = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
"""Units whose intensity OpenFace estimates (`AU01_r` ... `AU45_r`), in column order."""

EXPRESSIVE_UNITS: Final = (1, 2, 4, 5, 6, 7, 9, 12, 15, 17, 20, 23, 26)
"""Units that an expression may set; AU 25 and 45 follow from talking and blinking, AU 10 and 14 stay at rest."""

COLUMN: Final = {unit: index for index, unit in enumerate(OPENFACE_UNITS)}
MAX_INTENSITY: Final = 5.0


_BLINK_SECONDS = 0.12


def _ease(position: Floats) -> Floats:
    t = np.clip(position, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@dataclass(frozen=True)
class Expression:
    """The units' peak intensities (0..5) and the clip's timing.

    `onset` < `apex` <= `offset` are shares of the clip's length: movement starts at onset, is full from apex
    to offset and then sinks towards `residual` (share of the peak left on the last frame: offsets are partial).
    `talk` (0..1) is how far the jaw moves in speech, `talk_rate` in syllables a second; `blinks` are shares of
    the clip's length.

    Raises:
        ValueError: A unit cannot be set, or an intensity is out of range.
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


EMOTIONS: Final = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")
PROTOTYPES: Final[dict[str, tuple[int, ...]]] = {
    "neutral": (),
    "joy": (6, 12),
    "surprise": (1, 2, 5, 26),
    "anger": (4, 5, 7, 23),
    "sadness": (1, 4, 15, 17),
    "disgust": (7, 9, 15, 17),
    "fear": (1, 2, 4, 5, 7, 20, 26),
}
PARTIAL: Final[dict[str, tuple[tuple[int, ...], ...]]] = {
    "joy": ((12,),),
    "surprise": ((1, 2, 5), (1, 2)),
    "anger": ((4, 5, 7), (4, 7)),
    "sadness": ((1, 4), (15, 17)),
    "disgust": ((15, 17), (9,)),
    "fear": ((1, 2, 5), (4, 5, 7), (1, 4)),
}
"""Parts of a prototype that another emotion has, too: by the face alone they look the same."""
PARTIAL_SHARE: Final = 0.45
_POLITE: Final = ((12,), (1, 2), (4,))
"""What a neutral face does in talking, too faintly to be annotated: a polite smile, raised or lowered brows."""
LOW_SHARE: Final = 0.20
_DROP_SHARE: Final = 0.10
_STRAY_SHARE: Final = 0.25


def draw_peaks(emotion: str, rng: np.random.Generator, low: bool | None = None) -> dict[int, float]:
    """Draw peak intensities (0..5); `low` forces or forbids a faint face. Raise KeyError for an unknown emotion."""
    prototype = PROTOTYPES[emotion]
    faint = bool(rng.random() < LOW_SHARE) if low is None else low
    strength = rng.uniform(1.3, 2.0) if faint else rng.uniform(2.6, 4.6)
    if rng.random() < PARTIAL_SHARE:
        options = PARTIAL.get(emotion, _POLITE)
        prototype = options[int(rng.integers(len(options)))]
        strength = min(strength, 2.6) if emotion in PARTIAL else 0.7
    kept = [unit for unit in prototype if rng.random() >= _DROP_SHARE]
    if prototype and not kept:
        kept = [prototype[int(rng.integers(len(prototype)))]]
    peaks = {unit: float(strength * rng.uniform(0.65, 1.25)) for unit in kept}
    if rng.random() < _STRAY_SHARE:
        stray = EXPRESSIVE_UNITS[int(rng.integers(len(EXPRESSIVE_UNITS)))]
        peaks[stray] = max(peaks.get(stray, 0.0), float(rng.uniform(0.3, 1.2)))
    return {unit: round(min(peak, MAX_INTENSITY), 3) for unit, peak in sorted(peaks.items())}


def animate(emotion: str, rng: np.random.Generator, low: bool | None = None) -> Expression:
    """Draw an expression of an emotion: units, timing, speech and blinks. Raise KeyError for an unknown emotion."""
    peaks = draw_peaks(emotion, rng, low)
    onset = float(rng.uniform(0.0, 0.2))
    apex = onset + float(rng.uniform(0.2, 0.4))
    return Expression(
        peaks=peaks,
        onset=onset,
        apex=apex,
        offset=min(1.0, apex + float(rng.uniform(0.15, 0.4))),
        residual=float(rng.uniform(0.3, 0.85)),
        talk=float(rng.uniform(0.2, 0.9)),
        talk_rate=float(rng.uniform(2.5, 5.0)),
        talk_phase=float(rng.random()),
        blinks=(float(rng.random()),) if rng.random() < 0.5 else (),
    )
