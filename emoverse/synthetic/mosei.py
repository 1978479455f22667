"""Write the sample's CMU-MOSEI: labels and clips as MMSA, emotions and transcripts as CMU distributes them."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import h5py
import numpy as np

from emoverse.synthetic.faces import EMOTIONS
from emoverse.synthetic.lines import (
    FAINT_SHARE,
    GUEST_VLOGGERS,
    PARTIAL_SHARE,
    SIZES,
    VIDEO_IDS,
    VLOGGERS,
    Line,
    cycle_shuffled,
    plant_faults,
    planted_fault,
    seeded_rng,
    write_line_clip,
)
from emoverse.synthetic.phrases import PLAIN_SHARE, REVIEWS, TEST_REVIEWS, make_text, valence_of

COLUMNS: Final = (
    "video_id", "clip_id", "text", "label", "annotation", "mode", "label_T", "label_A", "label_V",
)  # fmt: skip
FEATURES: Final = ("sentiment", "joy", "sadness", "anger", "surprise", "disgust", "fear")
"""Columns of the CMU features by this package's names; the SDK's are happy and sad."""
SEGMENTS: Final = {"train": 106, "valid": 16, "test": 58}
_AT_LEAST: Final = {"train": 3, "valid": 1, "test": 1}
VIDEO_EMOTIONS: Final = (*EMOTIONS, *EMOTIONS, *(["joy"] * 4), "surprise", "surprise")
THIRD: Final = 3
"""Labels are multiples of a third."""


@dataclass(frozen=True)
class Video:
    """A monologue: segments in time order (a line's number is its clip id), CMU's labels (n, 7)."""

    video_id: str
    mode: str
    lines: tuple[Line, ...]
    labels: tuple[tuple[float, ...], ...]


def plan_mosei(seed: int, scale: float) -> list[Video]:
    """Plan the videos of all splits; raise ValueError when there are too few video ids for `scale`."""
    videos: list[Video] = []
    for mode, count in SEGMENTS.items():
        emotions = cycle_shuffled(VIDEO_EMOTIONS, seeded_rng(seed, "MOSEI", mode, "deck"))
        first, total = len(videos), 0
        while total < round(count * scale) or len(videos) - first < _AT_LEAST[mode]:
            if len(videos) == len(VIDEO_IDS):
                raise ValueError(f"scale {scale:g} needs more than the {len(VIDEO_IDS)} video ids of lines.VIDEO_IDS")
            guest = mode == "test" and (len(videos) - first) % 3 == 1
            videos.append(_video(len(videos), mode, guest, emotions, seed))
            total += len(videos[-1].lines)
    return videos


def _video(index: int, mode: str, guest: bool, emotions: Iterator[str], seed: int) -> Video:
    video_id = VIDEO_IDS[index]
    rng = seeded_rng(seed, "MOSEI", video_id)
    pool = GUEST_VLOGGERS if guest else VLOGGERS
    n = int(rng.integers(4, 10))
    clip_ids = [i for i in range(n + index % 2) if n + index % 2 == n or i != 2]
    topics = TEST_REVIEWS if mode == "test" else REVIEWS
    topic, used, clock = topics[int(rng.integers(len(topics)))], set[str](), float(rng.uniform(0, 20))
    size = SIZES[int(rng.integers(len(SIZES)))]
    lines, labels = [], []
    for position in rng.permutation(n):
        clip_id, emotion = clip_ids[int(position)], next(emotions)
        valence = int(rng.choice([-1, 0, 0, 1])) if emotion == "neutral" else valence_of(emotion, rng)
        key, low = f"MOSEI/{video_id}/{clip_id}", bool(rng.random() < FAINT_SHARE)
        plain = bool(rng.random() < PLAIN_SHARE)
        partial = bool(rng.random() < PARTIAL_SHARE[plain])
        text, frames = make_text(emotion, valence, plain, topic, used, rng), int(rng.integers(12, 19))
        person = pool[index % len(pool)]
        line = Line(key, clip_id, video_id, person, emotion, valence, low, partial, text, round(clock, 3), frames, size)
        lines.append(line)
        labels.append(_label(line, rng))
        clock = line.end + float(rng.uniform(0.0, 2.0))
    if index == 0:
        felt = next(i for i, label in enumerate(labels) if max(label[1:]) > 0)
        labels[felt] = _overrate(labels[felt])
    return Video(video_id, mode, tuple(lines), tuple(labels))


def _label(line: Line, rng: np.random.Generator) -> tuple[float, ...]:
    """Draw sentiment (-3..3) and six emotions (0..3), on thirds; all six are zero when neutral, 4 % tie."""
    strength = int(rng.integers(1, 4)) if line.low else int(rng.integers(3, 10))
    weight = {"neutral": 0.2, "surprise": 0.5}.get(line.emotion, 1.0)
    sentiment = line.valence * max(1, round(strength * weight)) / THIRD
    scores = dict.fromkeys(FEATURES[1:], 0)
    if line.emotion in scores:
        scores[line.emotion] = max(1, strength)
        other = FEATURES[1 + int(rng.integers(6))]
        draw = rng.random()
        if other != line.emotion and draw < 0.24:
            scores[other] = strength if draw < 0.05 else max(0, strength - int(rng.integers(1, 4)))
    return (sentiment, *(score / THIRD for score in scores.values()))


def _overrate(label: tuple[float, ...]) -> tuple[float, ...]:
    """Raise the first strongest emotion above the scale's end of 3, as in a few of CMU's rows."""
    strongest = 1 + label[1:].index(max(label[1:]))
    return (*label[:strongest], 10 / THIRD, *label[strongest + 1 :])


def write_mosei(corpus: Path, videos: list[Video], seed: int) -> None:
    """Write label.csv, CMU's labels and transcripts, clips and action units, planted faults included."""
    for video in videos:
        for line in video.lines:
            write_line_clip(line, corpus, f"Raw/{video.video_id}/{line.number}.mp4", seed)
    extra = planted_fault("MOSEI", "unannotated clip").file
    write_line_clip(replace(videos[0].lines[0], key=f"MOSEI/{extra}"), corpus, extra, seed)
    _write_labels(corpus / "label.csv", videos)
    _write_csd(corpus / "CMU_MOSEI_Labels.csd", videos)
    _write_transcripts(corpus / "Transcript" / "Segmented" / "Combined", videos)
    plant_faults(corpus)


def _write_labels(path: Path, videos: list[Video]) -> None:
    wrong = planted_fault("MOSEI", "sentiment out of range")
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for video in videos:
            for line, label in sorted(zip(video.lines, video.labels, strict=True), key=lambda item: item[0].number):
                value = str(np.float32(label[0]))
                if f"{video.video_id}/{line.number}" == wrong.row:
                    value = wrong.value
                annotation = ("Neutral", "Positive", "Negative")[int(np.sign(label[0]))]
                table.writerow((video.video_id, line.number, line.text, value, annotation, video.mode, "", "", ""))


def _write_csd(path: Path, videos: list[Video]) -> None:
    """Write the computational sequence: rows in time order, which is not the order of clip ids."""
    with h5py.File(path, "w", libver=("earliest", "v110"), track_order=False) as file:
        root = file.create_group("All Labels")
        for video in videos:
            group = root.create_group(f"data/{video.video_id}")
            spans = [(line.start, round(line.end, 3)) for line in video.lines]
            group.create_dataset("features", data=np.asarray(video.labels, np.float32), track_times=False)
            group.create_dataset("intervals", data=np.asarray(spans, np.float64), track_times=False)
        names = [{"joy": "happy", "sadness": "sad"}.get(name, name) for name in FEATURES]
        facts = {"root name": "All Labels", "dimension names": names, "version": "synthetic"}
        for key, value in facts.items():
            data = np.bytes_(json.dumps(value))
            root.create_dataset(f"metadata/{key}", data=data, track_times=False)


def _write_transcripts(folder: Path, videos: list[Video]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for video in videos:
        rows = [
            f"{video.video_id}___{line.number}___{line.start:.3f}___{line.end:.3f}___{line.text}"
            for line in video.lines
        ]
        (folder / f"{video.video_id}.txt").write_bytes(("\n".join(rows) + "\n").encode())
