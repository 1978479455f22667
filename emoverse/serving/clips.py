"""Look at a clip that anybody may have sent: decoded as the training's clips were, in a process that may die.

The process has a limit of time and of memory, opens the containers named here only (a playlist would make ffmpeg open
what it names), and a clip that is too big or too long is refused before a frame is decoded.
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
    """What a clip may be: bytes of the file, seconds it plays, bytes of memory its decoder may take."""

    size: int = 256 << 20
    seconds: float = 300.0
    memory: int = 4 << 30


@dataclass(frozen=True)
class Look:
    """What a model sees of a clip: uint8 RGB ``frames`` (n, height, width, 3), ``still`` (height, width, 3)."""

    frames: NDArray[np.uint8]
    still: NDArray[np.uint8]
    seconds: float


@dataclass(frozen=True)
class _Job:
    task: Task
    limits: Limits


def look(path: Path, params: MediaParams, limits: Limits | None = None) -> Look:
    """Return the frames of a clip, cut as ``params`` say; without action units its still is the middle frame.

    Raises UserError, naming the clip, for one that is missing, too big, too long, or that no decoder could read.
    """
    limits = limits or Limits()
    _check_file(path, limits)
    task = Task(clip_id=path.name, clip=path.name, path=path.absolute(), units=None, params=params, without_torch=True)
    done = _in_a_process(_Job(task, limits))
    if done.failure is not None:
        reason, detail = done.failure
        raise UserError(f"{reason}: {detail}", place=str(path), remedy="give a short video file with a picture")
    assert done.probe is not None
    kinds = {kind: [decode(one.blob) for one in done.frames if one.kind == kind] for kind in ("uniform", "peak")}
    return Look(np.stack(kinds["uniform"]), kinds["peak"][0], done.probe.duration)


def _check_file(path: Path, limits: Limits) -> None:
    if not path.is_file():
        problem = "it is a folder" if path.is_dir() else "it is no regular file" if path.exists() else "no such file"
        raise UserError(problem, place=str(path), remedy="give the path of a video file")
    if (size := path.stat().st_size) > limits.size:
        problem = f"it has {size / 2**20:.1f} MB, the limit is {limits.size / 2**20:.1f} MB"
        raise UserError(problem, place=str(path), remedy="cut or compress the clip, or raise the limit")


def _in_a_process(job: _Job) -> Done:
    """Examine a clip in a process of its own, and once more by PyAV alone where the first one died."""
    answer = _asked(job)
    if isinstance(answer, Done):
        return answer
    first = answer.detail
    answer = _asked(replace(job, task=replace(job.task, decoders=PYAV_ONLY)))
    if isinstance(answer, Done):
        return answer
    return Done(failure=(LOST[answer.kind], f"{first}; with pyav alone: {answer.detail}"))


def warm() -> None:
    """Start the process that later ones are forked from, and do not wait for it."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    forkserver.ensure_running()


def _asked(job: _Job) -> Done | Lost:
    pool: Pool[_Job, Done] = Pool(examine, timeout=job.task.params.timeout, workers=1)
    return next(pool.map([job]))


def examine(job: _Job) -> Done:
    """Check a clip's container and length, then read it; runs in the worker process."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (job.limits.memory, hard))
    path = job.task.path
    try:
        if size := path.stat().st_size:
            check_boxes(path, size)
            _require_known(path)
        duration = read_header(path).duration
    except ClipError as error:
        return Done(failure=(error.reason, error.detail))
    except Exception as error:  # a file no one has thought of
        return Done(failure=("clip-unreadable", tidy(f"{type(error).__name__}: {error}")))
    if duration is not None and duration > job.limits.seconds:
        detail = f"it plays {duration:.1f} s, the limit is {job.limits.seconds:g} s"
        return Done(failure=("clip-too-long", detail))
    return process(job.task)


def _require_known(path: Path) -> None:
    try:
        av.open(str(path), metadata_errors="ignore", options={"format_whitelist": CONTAINERS}).close()
    except (av.error.FFmpegError, ValueError) as error:
        raise ClipError("clip-unreadable", pyav_text(error)) from error
