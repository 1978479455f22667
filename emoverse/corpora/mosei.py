"""Read CMU-MOSEI as MMSA distributes it, with the emotions of CMU's own label file.

``label.csv`` (read by column name; two column orders are about) and ``Raw/{video_id}/{clip_id}.mp4``. It has no
emotions: those are joined from ``CMU_MOSEI_Labels.csd`` by time, see ``mosei_emotions``. A clip's emotion is the
largest of the six intensities; all zero is neutral; of equal ones the first in ``PRIORITY`` wins. Notes count both.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, Literal

from emoverse.collector import uncollected
from emoverse.corpora.base import Reading, Split, Utterance
from emoverse.corpora.files import BadRow, Problems, Row, faults_of, nfc, rows_of, unsafe, whole_number
from emoverse.corpora.mosei_emotions import EmotionLabels
from emoverse.errors import did_you_mean

LABELS: Final = "label.csv"
COLUMNS: Final = ("video_id", "clip_id", "text", "label", "annotation", "mode")
Polarity = Literal["negative", "neutral", "positive"]
SPLITS: Final[dict[str, Split]] = {"train": "train", "valid": "validation", "test": "test"}
PRIORITY: Final = ("joy", "sadness", "anger", "surprise", "disgust", "fear")
"""The csd's order of intensities (happy, sad, ...), which is also the order in which ties are broken."""
_POLARITY: Final[dict[int, Polarity]] = {-1: "negative", 0: "neutral", 1: "positive"}


def read(root: Path) -> Reading:
    """Read the whole corpus; raise UserError when label.csv is missing or unreadable.

    Without the csd there are no emotions, and ``notes`` counts every row as ``emotion-unknown``.
    """
    notes: Counter[str] = Counter()
    with EmotionLabels(root) as labels:
        reading = read_labels(root / LABELS, labels, notes)
    return Reading(reading.utterances, reading.quarantined, dict(sorted(notes.items())))


@uncollected()
def read_labels(path: Path, labels: EmotionLabels | None, notes: Counter[str]) -> Reading:
    """Read label.csv; ``labels`` adds emotions and times where it is given."""
    problems = Problems(path.name)
    good: list[Utterance] = []
    seen: dict[str, int] = {}
    for row in rows_of(path, COLUMNS, problems):
        row_id = nfc(f"mosei/{SPLITS.get(row.cells[5], row.cells[5])}/{row.cells[0]}/{row.cells[1]}")
        try:
            one = _utterance(row, row_id, labels, notes, f"{problems.name}:{row.line}")
            if seen.setdefault(one.clip, row.line) != row.line:
                raise BadRow("clip_id", "duplicate-id", f"{one.clip} is already on line {seen[one.clip]}")
            good.append(one)
        except BadRow as fault:
            clip = _clip(row.cells[0], row.cells[1])
            problems.add_all(row_id, row.line, faults_of(fault, _checks(row)), clip=clip)
    return Reading(good, problems.found)


def emotion_of(intensities: tuple[float, ...], notes: Counter[str]) -> str:
    """Return one emotion for six intensities: the largest, ``PRIORITY`` among equals, neutral when all are zero."""
    top = max(intensities)
    if top == 0:
        notes["emotion-all-zero"] += 1
        return "neutral"
    winners = [name for name, value in zip(PRIORITY, intensities, strict=True) if value == top]
    notes["emotion-tie"] += len(winners) > 1
    return winners[0]


def _utterance(row: Row, row_id: str, labels: EmotionLabels | None, notes: Counter[str], source: str) -> Utterance:
    """Turn a row into an utterance; raise BadRow for its first fault."""
    video, clip, text, label, annotation, mode = row.cells
    position = _identity(video, clip)
    _known(mode, text)
    sentiment, polarity = _sentiment(label, annotation)
    intensities = _intensities(labels, video, clip, notes)
    times = labels.times(video, clip) if labels else None
    return Utterance(
        utterance_id=row_id, corpus="mosei", split=SPLITS[mode], dialogue_id=nfc(video), position=position,
        speaker=None, text=text, emotion=emotion_of(intensities, notes) if intensities else None,
        polarity=polarity, sentiment=sentiment, intensities=intensities, causes=None, episode=None,
        start=times[0] if times else None, end=times[1] if times else None,
        clip=_clip(video, clip), source=source,
    )  # fmt: skip


def _checks(row: Row) -> list[Callable[[], object]]:
    """Return all that is asked of a row, each question by itself."""
    video, clip, text, label, annotation, mode = row.cells
    return [
        partial(_identity, video, "0"),
        partial(_identity, "-", clip),
        partial(_known, mode, "-"),
        partial(_known, "test", text),
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


def _known(mode: str, text: str) -> None:
    if mode not in SPLITS:
        raise BadRow("mode", "bad-split", f"{mode!r} is not a split; {did_you_mean(mode, SPLITS)}")
    if not text.strip():
        raise BadRow("text", "empty-text", "the utterance has no words")


def _clip(video: str, clip: str) -> str:
    return nfc(f"Raw/{video}/{clip}.mp4")


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
        words = [word.capitalize() for word in _POLARITY.values()]
        detail = f"{annotation!r} where label {label} means {expected.capitalize()!r}"
        hint = "" if annotation in words else f"; {did_you_mean(annotation, words)}"
        raise BadRow("annotation", "bad-label", f"{detail}{hint}")
    return sentiment, expected


def _intensities(labels: EmotionLabels | None, video: str, clip: str, notes: Counter[str]) -> tuple[float, ...] | None:
    """Return the clip's six intensities, None (and a note why) where they cannot be known.

    Values above 3, the scale's end, are clamped and counted (a few are published: CMU-MultimodalSDK issues 8 and 218).
    """
    found = labels.find(video, clip) if labels else "emotion-unknown"
    if isinstance(found, str):
        notes[found] += 1
        return None
    if any(not 0 <= value < math.inf for value in found):
        raise BadRow("label", "bad-intensity", f"the csd's emotions are {found}, not all from 0 up")
    notes["intensity-clamped"] += sum(value > 3 for value in found)
    return tuple(min(value, 3.0) for value in found)
