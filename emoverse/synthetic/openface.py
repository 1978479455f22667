"""Write what OpenFace 2 would measure in a clip: the CSV of `FeatureExtraction -aus`.

Header, column order, separators (comma and space) and decimals follow OpenFace 2's RecorderCSV.cpp.
"""

from pathlib import Path
from typing import Final

import numpy as np

from emoverse.synthetic.clips import FPS
from emoverse.synthetic.units import COLUMN, MAX_INTENSITY, OPENFACE_UNITS, Floats

PRESENCE_UNITS: Final = tuple(sorted((*OPENFACE_UNITS, 28)))
"""Units with a presence column (`AU01_c` ... `AU45_c`): AU 28 has no intensity."""

HEADER: Final = ", ".join(
    ["frame", "face_id", "timestamp", "confidence", "success"]
    + [f"AU{unit:02d}_r" for unit in OPENFACE_UNITS]
    + [f"AU{unit:02d}_c" for unit in PRESENCE_UNITS]
)
NOISE: Final = 0.10
"""Standard deviation of the measured about the drawn intensity."""


def write_units(path: Path, units: Floats, rng: np.random.Generator) -> None:
    """Write true intensities (T, 17) as measured ones: noisy, 0..5, present from 1 on; line ends are LF."""
    measured = np.clip(units + rng.normal(0.0, NOISE, units.shape), 0.0, MAX_INTENSITY).round(2)
    confidence = np.clip(rng.normal(0.96, 0.02, len(units)), 0.80, 0.98)
    lines = [HEADER]
    for index, row in enumerate(measured):
        present = [float(unit in COLUMN and row[COLUMN[unit]] >= 1.0) for unit in PRESENCE_UNITS]
        head = f"{index + 1}, 0, {index / FPS:.3f}, {confidence[index]:.2f}, 1"
        cells = [head, *(f"{value:.2f}" for value in row), *(f"{value:.1f}" for value in present)]
        lines.append(", ".join(cells))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode())
