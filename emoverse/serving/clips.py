"""Decode an untrusted clip as the training clips were decoded, in a process with limits of time and memory.

A clip that is too large is refused before it is opened, and one that says it is too long before a frame is decoded.
``media.probe`` opens no playlist, which would make FFmpeg open the files it names.
"""

from __future__ import annotations

import multiprocessing
import resource
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emoverse.config import MediaParams
from emoverse.errors import UserError
from emoverse.media.extract import LOST
from emoverse.media.probe import ClipError, read_header, tidy
from emoverse.media.transform import decode
from emoverse.media.workers import Done, Lost, Pool, Task, process


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a clip: bytes of the file, seconds of play, bytes of memory its decoder may use."""

    size: int = 256 << 20
    seconds: float = 300.0
    memory: int = 4 << 30


@dataclass(frozen=True)
class ClipFrames:
    """The model's view of a clip: uint8 RGB ``frames`` (n, height, width, 3), ``still`` (height, width, 3)."""

    frames: NDArray[np.uint8]
    still: NDArray[np.uint8]
    seconds: float | None


@dataclass(frozen=True)
class DecodeJob:
    """A clip to decode and its limits, as sent to the worker process."""

    task: Task
    limits: Limits


def read_clip(path: Path, params: MediaParams, limits: Limits | None = None) -> ClipFrames:
    """Return the frames of a clip; without action units its still is the middle frame.

    Raises:
        UserError: The clip is missing, too large, too long, or no decoder could read it.
    """
    limits = limits or Limits()
    _check_file(path, limits)
    task = Task(clip_id=path.name, clip=path.name, path=path.absolute(), units=None, params=params)
    done = _decode_in_process(DecodeJob(task, limits))
    if done.failure is not None:
        reason, detail = done.failure
        raise UserError(f"{reason}: {detail}", place=str(path), remedy="give a short video file with a picture")
    assert done.probe is not None
    kinds = {kind: [decode(frame.blob) for frame in done.frames if frame.kind == kind] for kind in ("uniform", "peak")}
    return ClipFrames(np.stack(kinds["uniform"]), kinds["peak"][0], done.probe.duration)


def _check_file(path: Path, limits: Limits) -> None:
    if not path.is_file():
        problem = "is a directory" if path.is_dir() else "not a regular file" if path.exists() else "no such file"
        raise UserError(problem, place=str(path), remedy="give the path of a video file")
    if (size := path.stat().st_size) > limits.size:
        problem = f"has {size / 2**20:.1f} MB, the limit is {limits.size / 2**20:.1f} MB"
        raise UserError(problem, place=str(path), remedy="cut or compress the clip, or raise the limit")


def _decode_in_process(job: DecodeJob) -> Done:
    """Decode a clip in a process of its own, and once more if that process died."""
    first = _run(job)
    if isinstance(first, Done):
        return first
    second = _run(job)
    if isinstance(second, Done):
        return second
    return Done(failure=(LOST.get(second.kind, "clip-crashed-decoder"), f"{first.detail}; again: {second.detail}"))


def _run(job: DecodeJob) -> Done | Lost:
    pool: Pool[DecodeJob, Done] = Pool(decode_job, timeout=job.task.params.timeout, workers=1)
    return next(pool.map([job]))


def start_forkserver() -> None:
    """Start the process that the decoders are forked from, without waiting for it."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    forkserver.ensure_running()


def decode_job(job: DecodeJob) -> Done | Lost:
    """Check a clip's container and duration, then decode it. Runs in the worker process."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (job.limits.memory, hard))
    path = job.task.path
    try:
        duration = read_header(path).duration
    except ClipError as error:
        return Done(failure=(error.reason, error.detail))
    except Exception as error:  # untrusted bytes may raise anything
        return Done(failure=("clip-unreadable", tidy(f"{type(error).__name__}: {error}")))
    if too_long := _too_long(duration, job.limits):
        return too_long
    done = process(job.task)
    # Some containers do not say in the header how long their pictures last.
    duration = done.probe.duration if isinstance(done, Done) and done.probe else None
    return _too_long(duration, job.limits) or done


def _too_long(seconds: float | None, limits: Limits) -> Done | None:
    if seconds is None or seconds <= limits.seconds:
        return None
    return Done(failure=("clip-too-long", f"plays {seconds:.1f} s, the limit is {limits.seconds:g} s"))
