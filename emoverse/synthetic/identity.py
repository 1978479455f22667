"""Describe who is drawn: the parts of a face that stay the same from clip to clip."""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from emoverse.synthetic.sketch import Colour, blend

_STREAM: Final = 0xFACE
_SKINS: Final[tuple[Colour, ...]] = (
    (250, 218, 196),
    (232, 184, 148),
    (198, 145, 106),
    (150, 102, 72),
    (104, 70, 50),
)
_HAIRS: Final[tuple[Colour, ...]] = (
    (28, 22, 20), (66, 44, 30), (118, 78, 42), (196, 158, 92), (138, 56, 30), (160, 160, 164),
)  # fmt: skip
_IRISES: Final[tuple[Colour, ...]] = ((70, 46, 30), (60, 90, 120), (70, 104, 66), (96, 96, 100))
HAIR_STYLES: Final = ("short", "long", "fringe", "parted", "bald")


@dataclass(frozen=True)
class Identity:
    """Hold what identifies a drawn person; lengths in face half-heights, offsets around an average face."""

    seed: int
    skin: Colour
    hair: Colour
    iris: Colour
    background: Colour
    hair_style: str
    glasses: bool
    beard: bool
    face_width: float
    jaw_width: float
    brow_thickness: float
    brow_height: float
    brow_tilt: float
    eye_spacing: float
    eye_size: float
    nose_length: float
    mouth_width: float
    mouth_height: float
    mouth_curve: float
    lip_thickness: float

    @classmethod
    def from_seed(cls, seed: int) -> Self:
        """Draw the one person that belongs to an integer seed (>= 0)."""
        rng = np.random.default_rng([_STREAM, seed])
        tone = float(rng.uniform(0, len(_SKINS) - 1))
        low = int(tone)
        skin = blend(_SKINS[low], _SKINS[min(low + 1, len(_SKINS) - 1)], tone - low)
        red, green, blue = (int(v) for v in rng.integers(50, 210, 3))
        return cls(
            seed=seed,
            skin=skin,
            hair=_HAIRS[int(rng.integers(len(_HAIRS)))],
            iris=_IRISES[int(rng.integers(len(_IRISES)))],
            background=(red, green, blue),
            hair_style=HAIR_STYLES[int(rng.choice(len(HAIR_STYLES), p=[0.3, 0.25, 0.15, 0.2, 0.1]))],
            glasses=bool(rng.random() < 0.25),
            beard=bool(rng.random() < 0.15),
            face_width=float(rng.uniform(0.70, 0.82)),
            jaw_width=float(rng.uniform(0.66, 0.92)),
            brow_thickness=float(rng.uniform(0.045, 0.085)),
            brow_height=float(rng.uniform(-0.018, 0.018)),
            brow_tilt=float(rng.uniform(-0.012, 0.012)),
            eye_spacing=float(rng.uniform(0.31, 0.37)),
            eye_size=float(rng.uniform(0.9, 1.15)),
            nose_length=float(rng.uniform(0.18, 0.27)),
            mouth_width=float(rng.uniform(0.24, 0.31)),
            mouth_height=float(rng.uniform(0.50, 0.55)),
            mouth_curve=float(rng.uniform(-0.012, 0.012)),
            lip_thickness=float(rng.uniform(0.035, 0.06)),
        )
