"""Draw faces for pretraining: identities of its own, seeded far from the sample's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from emoverse.media.transform import picture
from emoverse.models.pretraining_text import EMOTION_OF, FEELINGS, pick
from emoverse.params import MediaParams
from emoverse.synthetic.emotions import perform
from emoverse.synthetic.faces import Identity, Performance, render
from emoverse.synthetic.units import COLUMN, EXPRESSIVE_UNITS

FIRST_IDENTITY: Final = 1_000_000
"""The sample's identities have seeds below `synthetic.SAMPLE_IDENTITIES`; pretraining's start here."""
DRAWN: Final = 72
"""Pixels of a side as drawn; `media.transform` brings them to the model's size, as it does real clips."""
UNIT_WORDS: Final = {
    1: "inner brows up", 2: "outer brows up", 4: "brows down", 5: "eyes wide", 6: "cheeks up", 7: "lids tight",
    9: "nose wrinkled", 12: "lip corners up", 15: "lip corners down", 17: "chin up", 20: "lips stretched",
    23: "lips tight", 26: "jaw dropped",
}  # fmt: skip
SEEN: Final = 1.0
"""Intensity from which a caption mentions a unit (OpenFace's presence starts about there)."""


@dataclass(frozen=True)
class Face:
    """One drawn clip: frames (T, size, size, 3) uint8, units (T, 13) of EXPRESSIVE_UNITS 0..5, feeling or None."""

    frames: Any
    units: Any
    feeling: str | None


def draw_face(index: int, seed: int, n_frames: int, media: MediaParams) -> Face:
    """Draw clip number ``index``; five of six perform a feeling, the others move units at random."""
    rng = np.random.default_rng([seed, index])
    feeling = None if rng.random() < 1 / 6 else pick(FEELINGS, rng)
    performance = perform(EMOTION_OF[feeling], rng) if feeling else _random(rng)
    identity = Identity.from_seed(FIRST_IDENTITY + int(rng.integers(100_000)))
    size = DRAWN + int(rng.integers(40))
    # a clip of about 1.25 s; without its first and last moment these are near the middles of equal segments
    drawn = render(identity, performance, size, (n_frames + 2) / 1.25, n_frames + 2, rng)
    columns = [COLUMN[unit] for unit in EXPRESSIVE_UNITS]
    frames = np.stack([np.asarray(picture(frame, media).convert("RGB")) for frame in drawn.frames[1:-1]])
    return Face(frames, drawn.units[1:-1, columns], feeling)


def _random(rng: np.random.Generator) -> Performance:
    peaks = {unit: float(rng.uniform(0.8, 5.0)) for unit in EXPRESSIVE_UNITS if rng.random() < 0.25}
    talk, blinks = float(rng.uniform(0.2, 0.9)), ((float(rng.random()),) if rng.random() < 0.5 else ())
    return Performance(peaks=peaks, onset=0.0, apex=0.3, offset=0.8, talk=talk, blinks=blinks)


def caption(units: Any) -> str:
    """Say which units (T, 13) are seen in a clip, e.g. ``"Brows down, lips tight."``."""
    seen = [UNIT_WORDS[unit] for unit, peak in zip(EXPRESSIVE_UNITS, units.max(axis=0), strict=True) if peak >= SEEN]
    text = ", ".join(seen) or "at rest"
    return text[0].upper() + text[1:] + "."
