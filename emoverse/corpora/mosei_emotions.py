"""Join CMU-MOSEI's emotion labels to clips by time.

``CMU_MOSEI_Labels.csd`` (HDF5) holds, per video, ``features`` (n x 7: sentiment, happy, sad, anger, surprise, disgust,
fear) and ``intervals`` (n x 2 seconds) in the SDK's own order, which is not the order of clip ids: joining by position
mislabels. ``Transcript/Segmented/Combined/{video_id}.txt`` lists ``video___clip___start___end___text``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from emoverse.errors import UserError

CSD: Final = "CMU_MOSEI_Labels.csd"
TRANSCRIPTS: Final = "Transcript/Segmented/Combined"
TOLERANCE: Final = 0.05
"""Seconds by which the two files' start and end may differ; neighbouring segments differ by far more."""
Times = tuple[float, float]
_BROKEN: Final = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)  # what h5py raises


class EmotionLabels:
    """Look up a clip's times and emotions; a context manager that holds the csd open, where there is one."""

    def __init__(self, root: Path) -> None:
        self._transcripts = root / TRANSCRIPTS
        self._has_transcripts = self._transcripts.is_dir()
        self._path = root / CSD
        self._file: Any = None
        self._data: Any = None
        self._video = ""
        self._times: dict[str, Times] = {}
        self._segments: list[tuple[Times, tuple[float, ...]]] = []

    def __enter__(self) -> EmotionLabels:
        """Open the csd; raise UserError when it is no csd, or when the transcripts that join it are missing."""
        if not self._path.exists():
            return self
        import h5py

        try:
            self._file = h5py.File(self._path, "r")
            self._data = self._file["All Labels"]["data"]
            self._data.keys()  # a folder of videos has some
        except _BROKEN as error:
            raise self._unreadable(f"not a csd with 'All Labels' ({' '.join(str(error).split())[:200]})") from None
        if not self._has_transcripts:
            remedy = f"add {TRANSCRIPTS}, or remove {CSD} to go without emotions"
            problem = "the emotions have no clip ids and cannot be joined without the segmented transcripts"
            raise UserError(problem, place=str(self._transcripts), remedy=remedy)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the csd."""
        if self._file is not None:
            self._file.close()

    def times(self, video: str, clip: str) -> Times | None:
        """Return the clip's start and end in its video, in seconds; None where no transcript has them."""
        self._open(video)
        return self._times.get(clip)

    def find(self, video: str, clip: str) -> tuple[float, ...] | str:
        """Return the six intensities of the one segment with the clip's times, else the note that counts why not.

        Notes: ``emotion-unknown`` (no csd), ``emotion-no-times`` (no transcript line), ``emotion-no-segment`` (no
        interval fits), ``emotion-ambiguous`` (several fit and disagree).
        """
        if self._data is None:
            return "emotion-unknown"
        times = self.times(video, clip)
        if times is None:
            return "emotion-no-times"
        fits = {values for span, values in self._segments if _close(span, times)}
        if not fits:
            return "emotion-no-segment"
        return next(iter(fits)) if len(fits) == 1 else "emotion-ambiguous"

    def _open(self, video: str) -> None:
        """Read one video's times and segments; rows come video by video, so only the last one is kept."""
        if video == self._video:
            return
        self._video, self._times, self._segments = video, self._read_times(video), []
        if self._data is None:
            return
        try:
            if video not in self._data:
                return
            group = self._data[video]
            features, intervals = (np.asarray(group[name][()], dtype=np.float64) for name in ("features", "intervals"))
        except _BROKEN as error:
            why = " ".join(str(error).split())[:200]
            raise self._unreadable(f"the labels of video {video!r} cannot be read ({why})") from None
        if features.ndim != 2 or features.shape[1] != 7 or intervals.shape != (len(features), 2):
            shapes = f"features {features.shape} and intervals {intervals.shape}"
            raise self._unreadable(f"video {video!r} has {shapes}, not n x 7 and n x 2")
        for span, values in zip(intervals.tolist(), features.tolist(), strict=True):
            self._segments.append(((span[0], span[1]), tuple(round(value, 6) for value in values[1:])))

    def _unreadable(self, problem: str) -> UserError:
        remedy = f"fetch {CSD} again, or remove it to go without emotions"
        return UserError(problem, place=str(self._path), remedy=remedy)

    def _read_times(self, video: str) -> dict[str, Times]:
        if not self._has_transcripts or not (path := self._transcripts / f"{video}.txt").is_file():
            return {}
        found: dict[str, Times] = {}
        unclear: set[str] = set()
        start = f"{video}___".encode()
        # Bytes: only the numbers are wanted, and some of CMU's transcripts are not UTF-8. The video id may itself hold
        # "___", so it is cut off as a whole.
        for line in path.read_bytes().split(b"\n"):
            fields = line[len(start) :].split(b"___", 3) if line.startswith(start) else []
            if len(fields) < 3:
                continue
            try:
                clip, times = fields[0].decode("ascii"), (float(fields[1]), float(fields[2]))
            except ValueError:
                continue
            if not all(map(math.isfinite, times)) or found.setdefault(clip, times) != times:
                unclear.add(clip)  # times that are none, or two lines that differ: no guess
        return {clip: times for clip, times in found.items() if clip not in unclear}


def _close(one: Times, two: Times) -> bool:
    return abs(one[0] - two[0]) <= TOLERANCE and abs(one[1] - two[1]) <= TOLERANCE
