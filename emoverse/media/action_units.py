"""Read OpenFace tables of facial action units, or measure them."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from emoverse.artifacts.digests import sha256_file
from emoverse.errors import UserError
from emoverse.media.probe import tidy

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


VARIABLE: Final = "EMOVERSE_ACTION_UNITS"
_KNOWN: Final = "give tables, openface:/path/to/FeatureExtraction or py-feat"
# AU45 is the blink, AU43 the closed eye: one appearance, and only the latter is py-feat's.
_FEAT: Final = tuple("AU43" if unit == "AU45_r" else unit.removesuffix("_r") for unit in UNITS)
_FEAT_LIMIT: Final = 900.0  # seconds a clip may take: without a GPU a frame takes py-feat about one


class Measurer(Protocol):
    """Someone who measures; it is pickled and works in the processes that decode."""

    @property
    def own_process(self) -> bool:
        """Say whether it can neither take the worker down nor hold it up."""

    def limit(self, timeout: float) -> float:
        """Return the seconds it may take over one clip, where a decoder may take ``timeout``."""

    def measure(self, clip: Path, timeout: float) -> ActionUnits | None:
        """Return a clip's action units, None without a tracked face; raise ValueError when that cannot be said."""

    def facts(self) -> dict[str, Any]:
        """Return what the manifest should say of it."""


def measurer(word: str | None = None) -> Measurer | None:
    """Return who measures, as ``word`` or else the environment says; raise UserError when it is not at hand."""
    spec, place = (word, "--action-units") if word is not None else (os.environ.get(VARIABLE) or "tables", VARIABLE)
    kind, _, rest = spec.partition(":")
    if spec == "tables":
        return None
    if kind == "openface" and rest:
        return OpenFace.at(Path(rest), place)
    if spec == "py-feat":
        return PyFeat.installed(place)
    raise UserError(f"nobody called {spec!r} measures action units", place=place, remedy=_KNOWN)


@dataclass(frozen=True)
class OpenFace:
    """OpenFace 2's ``FeatureExtraction``, or a script that takes its options and writes its table."""

    program: Path
    digest: str
    own_process: bool = True

    @classmethod
    def at(cls, program: Path, place: str) -> OpenFace:
        """Return the program; raise UserError when nobody can run it."""
        if not program.is_file() or not os.access(program, os.X_OK):
            problem = f"{program} is no program that can be run"
            raise UserError(problem, place=place, remedy="build OpenFace 2 and give its bin/FeatureExtraction")
        return cls(program.resolve(), sha256_file(program))

    def limit(self, timeout: float) -> float:
        """Return a decoder's time: it is stopped after that."""
        return timeout

    def measure(self, clip: Path, timeout: float) -> ActionUnits | None:
        """Run the program over the clip (an absolute path, so no name looks like an option) and read its table."""
        assert clip.is_absolute()
        with tempfile.TemporaryDirectory(prefix="emoverse-openface-") as folder:
            self._run(["-aus", "-f", str(clip), "-out_dir", folder], timeout, Path(folder) / "said.log")
            tables = sorted(Path(folder).glob("*.csv"))
            if len(tables) != 1:
                raise ValueError(f"OpenFace wrote {len(tables)} tables, not one")
            return read_action_units(tables[0])

    def facts(self) -> dict[str, Any]:
        """Return the binary's digest; OpenFace has no option that tells its version."""
        return {"measured_by": "openface", "program": self.program.name, "sha256": self.digest}

    def _run(self, options: list[str], timeout: float, log: Path) -> None:
        """Run it in a session of its own, so that a wrapper's children end with it; raise ValueError when it fails."""
        with log.open("wb") as said:
            try:
                running = subprocess.Popen(
                    [str(self.program), *options], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                    cwd=self.program.parent, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise ValueError(f"OpenFace did not start: {error.strerror}") from None
            try:
                code = running.wait(timeout)
            except subprocess.TimeoutExpired:
                raise ValueError(f"OpenFace was not done within {timeout:g} s") from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                running.wait()
        if code != 0:
            last = (log.read_text("utf-8", "replace").strip().splitlines() or [""])[-1]
            raise ValueError(f"OpenFace ended with code {code}: {tidy(last.replace(str(log.parent), ''))}")


@dataclass(frozen=True)
class PyFeat:
    """py-feat, an optional extra. It gives a probability of each unit; doubled, one half is FER's threshold of 1."""

    version: str
    own_process: bool = False

    @classmethod
    def installed(cls, place: str) -> PyFeat:
        """Return it; raise UserError when it is not installed."""
        if util.find_spec("feat") is None:
            problem, remedy = "py-feat is not installed", "pip install 'emoverse[py-feat]', or use OpenFace"
            raise UserError(problem, place=place, remedy=remedy)
        return cls(metadata.version("py-feat"))

    def limit(self, timeout: float) -> float:
        """Return 15 minutes."""
        return max(timeout, _FEAT_LIMIT)

    def measure(self, clip: Path, timeout: float) -> ActionUnits | None:
        """Ask py-feat's detector about every frame."""
        detector = _detector()
        ask = getattr(detector, "detect", None) or detector.detect_video  # the name before version 0.7
        return from_feat(ask(str(clip), **({"data_type": "video"} if hasattr(detector, "detect") else {})))

    def facts(self) -> dict[str, Any]:
        """Return its version."""
        return {"measured_by": "py-feat", "version": self.version}


@cache
def _detector() -> Any:
    """Return py-feat's detector, loaded once a process."""
    from feat import Detector

    return Detector(device="cpu")


def from_feat(found: Any) -> ActionUnits | None:
    """Turn py-feat's table (a row a face: ``frame`` from 0, ``FaceScore``, ``AUxx`` 0..1) into intensities.

    Of several faces in a frame the most certain counts. Raises ValueError for a table without these columns.
    """
    absent = [name for name in ("frame", "FaceScore", *_FEAT) if name not in found.columns]
    if absent:
        raise ValueError(f"not a table of py-feat: no column {', '.join(absent[:3])}")
    usable = found.dropna(subset=["FaceScore", *_FEAT]).sort_values(["frame", "FaceScore"], kind="stable")
    best = usable.groupby("frame", sort=True).tail(1)
    if not len(best):
        return None
    return ActionUnits(best["frame"].to_numpy(np.int64), 2.0 * best[list(_FEAT)].to_numpy(np.float64))
