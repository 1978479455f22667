"""Read the facial action units that OpenFace 2 measured in a clip, and find the frame where the face shows most.

A corpus brings its tables (``FeatureExtraction -aus -f clip.mp4``) in a folder ``OpenFace`` beside its clips,
``OpenFace/<clip path>.csv``. Clips without a table are measured where someone is at hand who can, see ``measure``.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

FOLDER: Final = "OpenFace"
# The intensities OpenFace 2 estimates (0..5), in the order of its table.
UNITS: Final = tuple(f"AU{n:02d}_r" for n in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45))
MIN_CONFIDENCE: Final = 0.75  # OpenFace's own threshold for `success`


@dataclass(frozen=True)
class ActionUnits:
    """The usable rows of one table: ``frames`` (n,) are frame indices from 0, ``intensities`` (n, 17) run 0..5."""

    frames: NDArray[np.int64]
    intensities: NDArray[np.float64]

    @property
    def peak(self) -> tuple[int, NDArray[np.float64]]:
        """Return the frame with the largest sum of intensities, the first one on a tie, and its 17 intensities."""
        row = int(np.argmax(self.intensities.sum(axis=1)))
        return int(self.frames[row]), self.intensities[row]


def table_of(root: Path, clip: str) -> Path | None:
    """Return the OpenFace table of a clip (path relative to the corpus root), or None where there is none."""
    base = root / FOLDER / clip
    for candidate in (base.with_suffix(".csv"), base.with_name(base.name + ".csv")):
        if candidate.is_file():
            return candidate
    return None


def read_action_units(path: Path) -> ActionUnits | None:
    """Read an OpenFace 2 table (``-aus`` subset or full); return None when no row is usable.

    Rows where tracking failed (``success`` 0, or a confidence below 0.75) are left out: their intensities mean
    nothing. Of several faces in a frame the most confident counts. Raises ValueError for a table of another kind.
    """
    best: dict[int, tuple[float, list[float]]] = {}
    with path.open(encoding="utf-8-sig", newline="") as handle:
        rows = csv.reader(handle, skipinitialspace=True)
        header = [name.strip() for name in next(rows, [])]
        places = {name: column for column, name in enumerate(header)}
        absent = [name for name in ("frame", *UNITS) if name not in places]
        if absent:
            raise ValueError(f"not an OpenFace 2 table: no column {', '.join(absent[:3])}")
        for number, row in enumerate(rows, start=2):
            if not row:
                continue
            try:
                frame, confidence, units = _row(row, places)
            except (ValueError, IndexError, OverflowError) as error:
                raise ValueError(f"line {number}: {error}") from error
            if units and (frame not in best or confidence > best[frame][0]):
                best[frame] = (confidence, units)
    if not best:
        return None
    frames = sorted(best)
    return ActionUnits(np.array(frames, dtype=np.int64), np.array([best[f][1] for f in frames]))


def _row(row: list[str], places: dict[str, int]) -> tuple[int, float, list[float]]:
    """Return (frame index from 0, confidence, intensities); no intensities when tracking failed."""
    frame = int(float(row[places["frame"]])) - 1  # OpenFace counts frames from 1
    confidence = float(row[places["confidence"]]) if "confidence" in places else 1.0
    success = float(row[places["success"]]) if "success" in places else 1.0
    if success < 0.5 or confidence < MIN_CONFIDENCE or frame < 0:
        return frame, confidence, []
    units = [float(row[places[name]]) for name in UNITS]
    return frame, confidence, units if np.isfinite(units).all() else []
