"""Decode an untrusted clip as the training clips were decoded, in a process with limits of time and memory.

Only the containers listed here are opened (a playlist would make ffmpeg open the files it names), and a clip that is
too large or too long is refused before a frame is decoded.
"""

from __future__ import annotations

import multiprocessing
import resource
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Final

import av
import numpy as np
from numpy.typing import NDArray

from emoverse.config import MediaParams
from emoverse.errors import UserError
from emoverse.media.extract import LOST
from emoverse.media.probe import ClipError, check_boxes, pyav_text, read_header, tidy
from emoverse.media.transform import decode
from emoverse.media.workers import PYAV_ONLY, Done, Lost, Pool, Task, process

CONTAINERS: Final = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,ivf,h264,hevc,m4v"


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
    seconds: float


@dataclass(frozen=True)
class DecodeJob:
    """A clip to decode and its limits, as sent to the worker process."""

    task: Task
    limits: Limits


def read_clip(path: Path, params: MediaParams, limits: Limits | None = None) -> ClipFrames:
    """Return the frames of a clip; without action units its still is the middle frame.

    Raises:
        UserError: the clip is missing, too large, too long, or no decoder could read it.
    """
    limits = limits or Limits()
    _check_file(path, limits)
    task = Task(clip_id=path.name, clip=path.name, path=path.absolute(), units=None, params=params, without_torch=True)
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
    """Decode a clip in a process of its own, and again with PyAV alone if that process died."""
    first = _run(job)
    if isinstance(first, Done):
        return first
    second = _run(replace(job, task=replace(job.task, decoders=PYAV_ONLY)))
    if isinstance(second, Done):
        return second
    return Done(failure=(LOST[second.kind], f"{first.detail}; with pyav alone: {second.detail}"))


def _run(job: DecodeJob) -> Done | Lost:
    pool: Pool[DecodeJob, Done] = Pool(decode_job, timeout=job.task.params.timeout, workers=1)
    return next(pool.map([job]))


def start_forkserver() -> None:
    """Start the process that the decoders are forked from, without waiting for it."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    forkserver.ensure_running()


def decode_job(job: DecodeJob) -> Done:
    """Check a clip's container and duration, then decode it. Runs in the worker process."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (job.limits.memory, hard))
    path = job.task.path
    try:
        if size := path.stat().st_size:
            check_boxes(path, size)
            _require_known_container(path)
        duration = read_header(path).duration
    except ClipError as error:
        return Done(failure=(error.reason, error.detail))
    except Exception as error:  # untrusted bytes may raise anything
        return Done(failure=("clip-unreadable", tidy(f"{type(error).__name__}: {error}")))
    if duration is not None and duration > job.limits.seconds:
        detail = f"plays {duration:.1f} s, the limit is {job.limits.seconds:g} s"
        return Done(failure=("clip-too-long", detail))
    return process(job.task)


def _require_known_container(path: Path) -> None:
    try:
        av.open(str(path), metadata_errors="ignore", options={"format_whitelist": CONTAINERS}).close()
    except (av.error.FFmpegError, ValueError) as error:
        raise ClipError("clip-unreadable", pyav_text(error)) from error
