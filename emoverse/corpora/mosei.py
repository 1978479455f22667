"""Read CMU-MOSEI as MMSA distributes it, with the emotions of CMU's own label file.

``label.csv`` (read by column name; two column orders exist) and ``Raw/{video_id}/{clip_id}.mp4``. It has no
emotions: those are joined from ``CMU_MOSEI_Labels.csd`` by time, see ``mosei_emotions``. A clip's emotion is the
largest of the six intensities; all zero is neutral; of equal ones the first in ``PRIORITY`` wins. Notes count both.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from emoverse.corpora import Corpus, Reading, Split, Utterance
from emoverse.corpora.files import (
    BadRow,
    Problems,
    Row,
    cleaned,
    faults_of,
    find_folder,
    nfc,
    rows_of,
    unsafe,
    whole_number,
)
from emoverse.errors import UserError, did_you_mean

LABELS: Final = "label.csv"
COLUMNS: Final = ("video_id", "clip_id", "text", "label", "annotation", "mode")
Polarity = Literal["negative", "neutral", "positive"]
SPLITS: Final[dict[str, Split]] = {"train": "train", "valid": "validation", "test": "test"}
PRIORITY: Final = ("joy", "sadness", "anger", "surprise", "disgust", "fear")
"""The csd's order of intensities (happy, sad, ...), which is also the order in which ties are broken."""
_POLARITY: Final[dict[int, Polarity]] = {-1: "negative", 0: "neutral", 1: "positive"}


MAX_DIFFERING: Final = 0.05
"""Share of the joined clips whose sentiment may differ between the csd and label.csv."""


def read(root: Path) -> Reading:
    """Read the whole corpus; raise UserError when label.csv is missing or unreadable, or the csd is of other clips.

    Without the csd there are no emotions, and ``notes`` counts every row as ``emotion-unknown``.
    """
    with EmotionLabels(root) as labels:
        reading = read_labels(root / LABELS, labels, clip_layout(root))
        joined = sum(utterance.intensities is not None for utterance in reading.utterances)
        labels.check_sentiments(joined)
    return reading


def clip_layout(root: Path) -> str:
    """Return the pattern of clip paths: MMSA's ``Raw/{video}/{clip}.mp4``, CMU's flat one, or either one deeper."""
    combined = "Videos/Segmented/Combined"
    flat = find_folder(root, (f"Raw/{combined}", combined), "*.mp4")
    if any((root / flat).glob("*.mp4")):
        return f"{flat}/{{video}}_{{clip}}.mp4"
    return find_folder(root, ("Raw",), "*/*.mp4") + "/{video}/{clip}.mp4"


def read_labels(path: Path, labels: EmotionLabels | None, layout: str = "Raw/{video}/{clip}.mp4") -> Reading:
    """Read label.csv; ``labels`` adds emotions and times."""
    problems = Problems(path.name)
    good: list[Utterance] = []
    seen: dict[str, int] = {}
    for row in rows_of(path, COLUMNS, problems):
        video, number, *_, mode = row.cells
        row_id = nfc(f"mosei/{SPLITS.get(mode, mode)}/{video}/{number}")
        clip = nfc(layout.replace("{video}", video).replace("{clip}", number))
        try:
            utterance = _utterance(row, row_id, clip, labels, problems)
            if seen.setdefault(clip, row.line) != row.line:
                raise BadRow("clip_id", "duplicate-id", f"{clip} is already on line {seen[clip]}")
            good.append(utterance)
        except BadRow as error:
            problems.add_all(row_id, row.line, faults_of(error, _checks(row)), clip=clip)
    return Reading(good, problems.bad_rows, dict(sorted(problems.notes.items())))


def emotion_of(intensities: tuple[float, ...], notes: Counter[str]) -> str:
    """Return one emotion for six intensities: the largest, ``PRIORITY`` among equals, neutral when all are zero."""
    top = max(intensities)
    if top == 0:
        notes["emotion-all-zero"] += 1
        return "neutral"
    winners = [name for name, value in zip(PRIORITY, intensities, strict=True) if value == top]
    notes["emotion-tie"] += len(winners) > 1
    return winners[0]


def _utterance(row: Row, row_id: str, clip: str, labels: EmotionLabels | None, problems: Problems) -> Utterance:
    """Turn a row into an utterance; raise BadRow for its first problem."""
    video, number, text, label, annotation, mode = row.cells
    position = _identity(video, number)
    _check_split(mode)
    text = cleaned("text", text, problems.notes)
    sentiment, polarity = _sentiment(label, annotation)
    intensities = _intensities(labels, video, number, sentiment, problems.notes)
    times = labels.times(video, number) if labels else None
    return Utterance(
        utterance_id=row_id, corpus="mosei", split=SPLITS[mode], dialogue_id=nfc(video), position=position,
        speaker=None, text=text, emotion=emotion_of(intensities, problems.notes) if intensities else None,
        polarity=polarity, sentiment=sentiment, intensities=intensities, causes=None, episode=None,
        start=times[0] if times else None, end=times[1] if times else None,
        clip=clip, source=f"{problems.name}:{row.line}",
    )  # fmt: skip


def _checks(row: Row) -> list[Callable[[], object]]:
    """Return the checks of a row, each on its own."""
    video, clip, text, label, annotation, mode = row.cells
    return [
        partial(_identity, video, "0"),
        partial(_identity, "-", clip),
        partial(_check_split, mode),
        partial(cleaned, "text", text, Counter()),
        partial(_sentiment, label, annotation),
    ]


def _identity(video: str, clip: str) -> int:
    fault = unsafe(video)
    if fault:
        raise BadRow("video_id", "bad-id", fault)
    position = whole_number(clip)
    if position is None:
        raise BadRow("clip_id", "bad-number", f"{clip!r} is not a whole number")
    return position


def _check_split(mode: str) -> None:
    if mode not in SPLITS:
        raise BadRow("mode", "bad-split", f"{mode!r} is not a split; {did_you_mean(mode, SPLITS)}")


@lru_cache(maxsize=1 << 10)  # few different values
def _sentiment(label: str, annotation: str) -> tuple[float, Polarity]:
    """Return the number and the polarity that both columns agree on."""
    try:
        sentiment = float(label)
    except ValueError:
        sentiment = math.nan
    if not -3 <= sentiment <= 3:
        raise BadRow("label", "bad-label", f"{label!r} is not a number from -3 to 3")
    expected = _POLARITY[(sentiment > 0) - (sentiment < 0)]
    if annotation != expected.capitalize():
        known = [name.capitalize() for name in _POLARITY.values()]
        detail = f"{annotation!r} where label {label} means {expected.capitalize()!r}"
        hint = "" if annotation in known else f"; {did_you_mean(annotation, known)}"
        raise BadRow("annotation", "bad-label", f"{detail}{hint}")
    return sentiment, expected


def _intensities(
    labels: EmotionLabels | None, video: str, clip: str, sentiment: float, notes: Counter[str]
) -> tuple[float, ...] | None:
    """Return the clip's six intensities, None (and a note why) where they cannot be known.

    Values above 3, the scale's end, are clamped and counted (a few are published: CMU-MultimodalSDK issues 8 and 218).
    """
    values = labels.find(video, clip) if labels else "emotion-unknown"
    if isinstance(values, str):
        notes[values] += 1
        return None
    csd_sentiment, *emotions = values
    if any(not 0 <= value < math.inf for value in emotions):
        raise BadRow("label", "bad-intensity", f"the csd's emotions are {tuple(emotions)}, expected numbers from 0")
    if labels and not abs(csd_sentiment - sentiment) <= SENTIMENT_TOLERANCE:
        labels.differing.append(f"{video}/{clip} ({csd_sentiment:g}, label.csv {sentiment:g})")
        notes["csd-sentiment-differs"] += 1
    notes["intensity-clamped"] += sum(value > 3 for value in emotions)
    return tuple(min(value, 3.0) for value in emotions)


CSD: Final = "CMU_MOSEI_Labels.csd"
TRANSCRIPTS: Final = "Transcript/Segmented/Combined"
SENTIMENT_TOLERANCE: Final = 0.2  # sentiments are on a grid of thirds or sixths
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
        self.differing: list[str] = []  # clips whose sentiment is not label.csv's

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

    def check_sentiments(self, joined: int) -> None:
        """Raise UserError when too many of the joined clips have another sentiment than label.csv says."""
        if len(self.differing) > MAX_DIFFERING * joined:
            problem = f"its sentiment differs from {LABELS} in {len(self.differing)} of {joined} clips, such as"
            remedy = f"give the {CSD} that belongs to {LABELS}, or remove it to go without emotions"
            raise UserError(f"{problem} {', '.join(self.differing[:3])}", place=str(self._path), remedy=remedy)

    def times(self, video: str, clip: str) -> Times | None:
        """Return the clip's start and end in its video, in seconds; None where no transcript has them."""
        self._open(video)
        return self._times.get(clip)

    def find(self, video: str, clip: str) -> tuple[float, ...] | str:
        """Return sentiment and six intensities of the one segment with the clip's times, else the note that counts it.

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
            self._segments.append(((span[0], span[1]), tuple(round(value, 6) for value in values)))

    def _unreadable(self, problem: str) -> UserError:
        remedy = f"fetch {CSD} again, or remove it to go without emotions"
        return UserError(problem, place=str(self._path), remedy=remedy)

    def _read_times(self, video: str) -> dict[str, Times]:
        if not self._has_transcripts or not (path := self._transcripts / f"{video}.txt").is_file():
            return {}
        by_clip: dict[str, Times] = {}
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
            if not all(map(math.isfinite, times)) or by_clip.setdefault(clip, times) != times:
                unclear.add(clip)  # not a time, or two lines that differ: no guess
        return {clip: times for clip, times in by_clip.items() if clip not in unclear}


def _close(first: Times, second: Times) -> bool:
    return abs(first[0] - second[0]) <= TOLERANCE and abs(first[1] - second[1]) <= TOLERANCE


def _published_clip(utterance: Utterance) -> str:
    """Return the authors' path of a clip: MMSA's, without ``Raw``."""
    return f"{utterance.dialogue_id}/{utterance.position}.mp4"


# Prompt and answer as in the authors' figure and scorer, which disagree on "sad".
CORPUS = Corpus(
    name="mosei",
    read=read,
    published_clip=_published_clip,
    prompt_labels={"joy": "happy", "sadness": "sad"},
    answer_labels={"joy": "happy"},
    quote='"',
    published_as_images=True,
)
