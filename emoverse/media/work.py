"""What a worker process does with one clip: probe it, take its frames and its action units, in one pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

# Imported here, not where they are used: the fork server loads them once for all worker processes.
import av  # noqa: F401
import decord  # noqa: F401

from emoverse.media.action_units import ActionUnits, read_action_units
from emoverse.media.errors import ClipError, tidy
from emoverse.media.measure import Measurer
from emoverse.media.probe import Probe
from emoverse.media.read import Frame, read_frames
from emoverse.media.sampling import still, uniform
from emoverse.media.transform import encode, picture
from emoverse.params import MediaParams

Kind = Literal["uniform", "peak"]
PYAV_ONLY: Final = ("pyav",)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One clip to read: ``clip`` is its path for messages, ``path`` where it lies, ``units`` its OpenFace table.

    ``measurer`` measures the action units of a clip without a table; ``without_torch`` is ``transform.picture``'s.
    """

    clip_id: str
    clip: str
    path: Path
    units: Path | None
    params: MediaParams
    decoders: tuple[str, ...] = ("decord", "pyav")
    measurer: Measurer | None = None
    without_torch: bool = False

    @property
    def limit(self) -> float:
        """Return the seconds the clip may take."""
        measures = self.units is None and self.measurer is not None
        return self.params.timeout + (self.measurer.limit(self.params.timeout) if measures and self.measurer else 0.0)


@dataclass(frozen=True)
class Stored:
    """One encoded frame: ``frame`` is its index in the clip, ``number`` its place among the frames of its kind."""

    kind: Kind
    number: int
    frame: int
    blob: bytes


@dataclass(frozen=True)
class Done:
    """What one clip gave: frames and facts, or ``failure`` as (reason, detail)."""

    probe: Probe | None = None
    frames: list[Stored] = field(default_factory=list)
    peak: tuple[int, list[float]] | None = None  # frame with the largest sum of intensities, and its 17 intensities
    note: str = ""  # what was wrong with the OpenFace table; costs the action units, not the clip
    failure: tuple[str, str] | None = None


def process(task: Task) -> Done:
    """Read one clip; whatever is wrong with it comes back as a failure, never as an exception."""
    peak, note = _peak(task)
    blobs: dict[int, bytes] = {}

    wanted = peak[0] if peak else None

    def choose(count: int) -> list[int]:
        return [*uniform(count, task.params.frames), still(count, wanted)]

    def keep(index: int, frame: Frame) -> None:
        blobs[index] = encode(picture(frame, task.params, without_torch=task.without_torch), task.params)

    try:
        probe = read_frames(task.path, choose, keep, decoders=task.decoders, name=task.clip)
    except ClipError as error:
        return Done(failure=(error.reason, error.detail))
    except Exception as error:  # a file no one has thought of may cost itself, not the corpus
        return Done(failure=("clip-unreadable", tidy(f"{type(error).__name__}: {error}")))
    if peak is not None and peak[0] >= probe.frames:
        note = f"its peak is frame {peak[0]}, the clip has {probe.frames}"
        peak = None
    *spread, single = choose(probe.frames)
    frames = [Stored("uniform", number, index, blobs[index]) for number, index in enumerate(spread)]
    return Done(probe, [*frames, Stored("peak", 0, single, blobs[single])], peak, note)


def _peak(task: Task) -> tuple[tuple[int, list[float]] | None, str]:
    """Return the peak of the clip's OpenFace table, and what was wrong with the table."""
    if task.units is None and task.measurer is None:
        return None, ""
    try:
        table = _units(task)
    except Exception as error:  # another's program or library; whatever it does costs the action units only
        return None, tidy(f"{task.units.name if task.units else 'not measured'}: {error}")
    if table is None:
        return None, "no frame with a tracked face"
    frame, intensities = table.peak
    return (frame, [float(value) for value in intensities]), ""


def _units(task: Task) -> ActionUnits | None:
    """Return the clip's table, or what is measured where it has none."""
    if task.units is not None:
        return read_action_units(task.units)
    assert task.measurer is not None
    return task.measurer.measure(task.path, task.measurer.limit(task.params.timeout))
