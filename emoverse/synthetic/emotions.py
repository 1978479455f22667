"""Turn an emotion into a performance through the action units that signal it.

The sets are the EMFACS prototypes of Ekman & Friesen (Facial Action Coding System: Investigator's Guide, 1978;
EMFACS-7, 1983), restricted to what `portrait` can draw. They are confusable as real faces are: fear is surprise
with AU 4, 7 and 20; anger and disgust share tightened lids, sadness and disgust the lowered mouth; sadness of low
intensity is close to neutral.
Units are dropped and strays added at random, and one performance in five is of low intensity.
"""

from typing import Final

import numpy as np

from emoverse.synthetic.performance import Performance
from emoverse.synthetic.units import EXPRESSIVE_UNITS, MAX_INTENSITY

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
LOW_SHARE: Final = 0.20
_DROP_SHARE: Final = 0.16
_STRAY_SHARE: Final = 0.35


def draw_peaks(emotion: str, rng: np.random.Generator, low: bool | None = None) -> dict[int, float]:
    """Draw peak intensities (0..5); `low` forces or forbids a faint face. Raises KeyError for no emotion."""
    prototype = PROTOTYPES[emotion]
    faint = bool(rng.random() < LOW_SHARE) if low is None else low
    strength = rng.uniform(1.0, 1.8) if faint else rng.uniform(2.8, 4.8)
    kept = [unit for unit in prototype if rng.random() >= _DROP_SHARE]
    if prototype and not kept:
        kept = [prototype[int(rng.integers(len(prototype)))]]
    peaks = {unit: float(strength * rng.uniform(0.65, 1.25)) for unit in kept}
    if rng.random() < _STRAY_SHARE:
        stray = EXPRESSIVE_UNITS[int(rng.integers(len(EXPRESSIVE_UNITS)))]
        peaks[stray] = max(peaks.get(stray, 0.0), float(rng.uniform(0.5, 2.0)))
    return {unit: round(min(peak, MAX_INTENSITY), 3) for unit, peak in sorted(peaks.items())}


def perform(emotion: str, rng: np.random.Generator, low: bool | None = None) -> Performance:
    """Draw a performance of an emotion: units, timing, speech and blinks. Raises KeyError if unknown."""
    peaks = draw_peaks(emotion, rng, low)
    onset = float(rng.uniform(0.0, 0.2))
    apex = onset + float(rng.uniform(0.2, 0.4))
    return Performance(
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
