"""Read OpenFace tables of facial action units, or measure them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from emoverse.artifacts.digests import sha256_file
from emoverse.errors import UserError
from emoverse.media.probe import Probe, tidy

FOLDER: Final = "OpenFace"
NOT_MEASURED: Final = "not measured"  # begins the note about a clip on which a backend failed
# The intensities OpenFace 2 estimates (0..5), in the order of its table.
UNITS: Final = tuple(f"AU{n:02d}_r" for n in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45))
MIN_CONFIDENCE: Final = 0.75  # OpenFace's own threshold for `success`
COUNT_TOLERANCE: Final = 0.02  # share of a clip's frames by which a table's count may differ
CLOCK_TOLERANCE: Final = 0.1  # share of a clip's duration by which a table's may differ


@dataclass(frozen=True)
class ActionUnits:
    """The usable rows of one table: ``frames`` (n,) are frame indices from 0, ``intensities`` (n, 17) run 0..5.

    ``times`` (n,) are the rows' seconds. ``count`` is the number of frames that the table covers, tracked or not, and
    ``end`` the second at which it ends; both are None where the table does not say.
    """

    frames: NDArray[np.int64]
    intensities: NDArray[np.float64]
    times: NDArray[np.float64] | None = None
    count: int | None = None
    end: float | None = None

    @property
    def peak(self) -> tuple[int, NDArray[np.float64]]:
        """Return the frame with the largest sum of intensities, the first one on a tie, and its 17 intensities."""
        row = self._peak_row
        return int(self.frames[row]), self.intensities[row]

    @property
    def _peak_row(self) -> int:
        return int(np.argmax(self.intensities.sum(axis=1)))

    def peak_frame(self, frames: int) -> int:
        """Return the peak's index in a clip of ``frames`` frames, by time where the table counts other frames."""
        row = self._peak_row
        if self._counts(frames) or self.times is None or not self.end:
            return int(self.frames[row])
        return int(self.times[row] / self.end * frames + 1e-6)

    def _counts(self, frames: int) -> bool:
        """Return whether the table counts the clip's frames; OpenCV, which OpenFace reads with, may lose a few."""
        return self.count is None or abs(self.count - frames) <= max(2, frames * COUNT_TOLERANCE)

    def mismatch(self, probe: Probe) -> str:
        """Return why the table cannot be of a clip, "" when it can."""
        if self.end and probe.duration and abs(self.end - probe.duration) > max(0.5, CLOCK_TOLERANCE * probe.duration):
            return f"its clock runs for {self.end:.2f} s, the clip for {probe.duration:.2f} s"
        if not self._counts(probe.frames) and not (self.end and probe.duration):
            return f"it has {self.count} frames, the clip {probe.frames}"
        if (peak := self.peak_frame(probe.frames)) >= probe.frames:
            return f"its peak is frame {peak}, the clip has {probe.frames}"
        return ""


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
    nothing. Of several faces in a frame the most confident counts. Columns may be separated by commas, semicolons or
    tabs.

    Raises:
        ValueError: The table is of another kind, cells do not fit the header, or an intensity is outside 0..5; the line
            is named.
    """
    text = path.read_text(encoding="utf-8-sig")
    lines = text.splitlines()
    separator = max(",;\t", key=lines[0].count) if lines else ","
    header = [name.strip() for name in lines[0].split(separator)] if lines else []
    columns = {name: column for column, name in reversed(list(enumerate(header)))}
    absent = [name for name in ("frame", *UNITS) if name not in columns]
    if absent:
        raise ValueError(f"not an OpenFace 2 table: no column {', '.join(absent[:3])}")
    best: dict[int, _Row] = {}
    clock: dict[int, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split(separator)
        if not line.strip() or (number == len(lines) and len(cells) < len(header) and not text.endswith("\n")):
            continue  # OpenFace was stopped while it wrote the last row
        try:
            if len(cells) != len(header):
                hint = "; written with decimal commas? Run OpenFace with LC_ALL=C" if separator == "," else ""
                raise ValueError(f"{len(cells)} cells, the header has {len(header)}{hint}")
            row = _read_row([cell.strip().replace(",", ".") for cell in cells], columns)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"line {number}: {error}") from error
        clock[row.frame] = row.time
        if row.units and (row.frame not in best or row.confidence > best[row.frame].confidence):
            best[row.frame] = row
    if not best:
        return None
    first = 0 if min(clock) == 0 else 1  # OpenFace counts frames from 1, some that rewrite its tables from 0
    rows = [best[frame] for frame in sorted(best)]
    last = max(clock)
    start = min(clock.values())
    step = (clock[last] - start) / (len(clock) - 1) if len(clock) > 1 else 0.0
    return ActionUnits(
        np.array([row.frame - first for row in rows], dtype=np.int64),
        np.array([row.units for row in rows]),
        np.array([row.time for row in rows]),
        last - first + 1,
        clock[last] + step if step > 0 else None,
    )


@dataclass(frozen=True)
class _Row:
    """One face in one frame; ``units`` is empty where tracking failed."""

    frame: int
    time: float
    confidence: float
    units: list[float]


def _read_row(cells: list[str], columns: Mapping[str, int]) -> _Row:
    frame = int(float(cells[columns["frame"]]))
    confidence, success, time = (
        float(cells[columns[name]]) if name in columns else default
        for name, default in (("confidence", 1.0), ("success", 1.0), ("timestamp", 0.0))
    )
    if success < 0.5 or confidence < MIN_CONFIDENCE or frame < 0:
        return _Row(frame, time, confidence, [])
    units = [float(cells[columns[name]]) for name in UNITS]
    for name, value in zip(UNITS, units, strict=True):
        if not 0.0 <= value <= 5.0:
            raise ValueError(f"{name} is {value:g}, outside 0..5")
    return _Row(frame, time, confidence, units)


VARIABLE: Final = "EMOVERSE_ACTION_UNITS"
_KNOWN: Final = "give tables, openface:/path/to/FeatureExtraction or py-feat"
# AU45 is the blink, AU43 the closed eye: one appearance, and only the latter is py-feat's.
_FEAT: Final = tuple("AU43" if unit == "AU45_r" else unit.removesuffix("_r") for unit in UNITS)
_FEAT_LIMIT: Final = 900.0  # seconds a clip may take: without a GPU a frame takes py-feat about one


class Measurer(Protocol):
    """A backend that measures action units; it is pickled and runs in the worker processes."""

    @property
    def own_process(self) -> bool:
        """Return whether it can neither crash nor block the worker."""

    def limit(self, timeout: float) -> float:
        """Return the seconds it may take for one clip, where a decoder may take ``timeout``."""

    def measure(self, clip: Path, timeout: float) -> ActionUnits | None:
        """Return a clip's action units, None without a tracked face.

        Raises:
            ValueError: They cannot be measured.
            TimeoutError: It took longer than ``timeout`` seconds.
        """

    def facts(self) -> dict[str, Any]:
        """Return its entry in the manifest."""


def measurer(name: str | None = None) -> Measurer | None:
    """Return the backend of that name, or of the environment variable's; raise UserError when it is not available."""
    spec, place = (name, "--action-units") if name is not None else (os.environ.get(VARIABLE) or "tables", VARIABLE)
    kind, _, rest = spec.partition(":")
    if spec == "tables":
        return None
    if kind == "openface" and rest:
        return OpenFace.at(Path(rest), place)
    if spec == "py-feat":
        return PyFeat.installed(place)
    raise UserError(f"unknown action-unit backend {spec!r}", place=place, remedy=_KNOWN)


@dataclass(frozen=True)
class OpenFace:
    """OpenFace 2's ``FeatureExtraction``, or a script that takes its options and writes its table."""

    program: Path
    digest: str
    own_process: bool = True

    @classmethod
    def at(cls, program: Path, place: str) -> OpenFace:
        """Return the program; raise UserError when it cannot be run."""
        if not program.is_file() or not os.access(program, os.X_OK):
            problem = f"{program} is not an executable file"
            raise UserError(problem, place=place, remedy="build OpenFace 2 and give its bin/FeatureExtraction")
        return cls(program.resolve(), sha256_file(program))

    def limit(self, timeout: float) -> float:
        """Return a decoder's limit: it is stopped after that."""
        return timeout

    def measure(self, clip: Path, timeout: float) -> ActionUnits | None:
        """Run the program over the clip (an absolute path, so no name looks like an option) and read its table."""
        assert clip.is_absolute()
        with tempfile.TemporaryDirectory(prefix="emoverse-openface-") as folder:
            last_line = self._run(["-aus", "-f", str(clip), "-out_dir", folder], timeout, Path(folder) / "output.log")
            tables = sorted(Path(folder).glob("*.csv"))
            if len(tables) != 1:
                raise ValueError(f"OpenFace wrote {len(tables)} tables instead of 1: {last_line}")
            return read_action_units(tables[0])

    def facts(self) -> dict[str, Any]:
        """Return the binary's digest; OpenFace has no option that tells its version."""
        return {"measured_by": "openface", "program": self.program.name, "sha256": self.digest}

    def _run(self, options: list[str], timeout: float, log: Path) -> str:
        """Run it in a session of its own, so that a wrapper's children end with it; return its last line of output.

        Raises:
            ValueError: It fails.
            TimeoutError: It takes longer than ``timeout`` seconds.
        """
        with log.open("wb") as output:
            try:
                running = subprocess.Popen(
                    [str(self.program), *options], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    cwd=self.program.parent, start_new_session=True, env={**os.environ, "LC_ALL": "C"},
                )  # fmt: skip
            except OSError as error:
                raise ValueError(f"OpenFace did not start: {error.strerror}") from None
            try:
                code = running.wait(timeout)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"OpenFace was not done within {timeout:g} s") from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                running.wait()
        last = (log.read_text("utf-8", "replace").strip().splitlines() or [""])[-1]
        last = tidy(last.replace(str(log.parent), "")) if last else "no output"
        if code != 0:
            raise ValueError(f"OpenFace ended with code {code}: {last}")
        return last


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
        """Run py-feat's detector over every frame."""
        detector = _detector()
        detect = getattr(detector, "detect", None) or detector.detect_video  # the name before version 0.7
        return from_feat(detect(str(clip), **({"data_type": "video"} if hasattr(detector, "detect") else {})))

    def facts(self) -> dict[str, Any]:
        """Return its version."""
        return {"measured_by": "py-feat", "version": self.version}


@cache
def _detector() -> Any:
    """Return py-feat's detector, loaded once a process."""
    from feat import Detector

    return Detector(device="cpu")


def from_feat(table: Any) -> ActionUnits | None:
    """Turn py-feat's table (one row per face: ``frame`` from 0, ``FaceScore``, ``AUxx`` 0..1) into intensities.

    Of several faces in a frame the most certain counts.

    Raises:
        ValueError: The table lacks these columns.
    """
    absent = [name for name in ("frame", "FaceScore", *_FEAT) if name not in table.columns]
    if absent:
        raise ValueError(f"not a table of py-feat: no column {', '.join(absent[:3])}")
    usable = table.dropna(subset=["FaceScore", *_FEAT]).sort_values(["frame", "FaceScore"], kind="stable")
    best = usable.groupby("frame", sort=True).tail(1)
    if not len(best):
        return None
    return ActionUnits(best["frame"].to_numpy(np.int64), 2.0 * best[list(_FEAT)].to_numpy(np.float64))
