"""Write the three sample corpora into a folder: the same bytes for the same seed, scale and libraries.

MELD is written in the layout of declare-lab/MELD (MELD.Raw.tar.gz after unpacking).

ECF is written in the layout of ECF 2.0 (SemEval-2024 task 3, subtask 2).
ECF distributes no clips; here they are `train/dia{c}utt{u}.mp4` and `test/dia{c}utt{u}.mp4`, the names of
`video_name` under one folder per split (the authors' records say `ECF2/subtask2_test/` for the latter). As in
the real corpora, train repeats dialogues of MELD, three of its test split among them: same episode, times, words
and clip, some with another emotion.

CMU-MOSEI has labels and clips as MMSA, emotions and transcripts as CMU distributes them.
"""

import csv
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from emoverse.synthetic.faces import EMOTIONS
from emoverse.synthetic.lines import (
    FAINT_SHARE,
    GUEST_VLOGGERS,
    PARTIAL_FACE_SHARE,
    SIZES,
    VIDEO_IDS,
    VLOGGERS,
    Conversation,
    Line,
    cycle_shuffled,
    make_conversations,
    plant_faults,
    planted_fault,
    seeded_rng,
    write_line_clip,
)
from emoverse.synthetic.phrases import PLAIN_SHARE, REVIEWS, TEST_REVIEWS, make_text, valence_of

CORPORA: Final = ("MELD", "ECF", "MOSEI")
DEFAULT_SEED: Final = 12


def generate(out: Path, seed: int = DEFAULT_SEED, scale: float = 1.0) -> None:
    """Write `out`/MELD, `out`/ECF and `out`/MOSEI, replacing what is there.

    Args:
        out: Folder of the three corpora.
        seed: Seed of everything random.
        scale: Factor of the number of utterances (about 1,300 at 1); every planted fault is there at any scale.

    Raises:
        ValueError: `scale` is not above 0, or needs more MOSEI videos than are named.
    """
    if scale <= 0:
        raise ValueError(f"scale {scale:g} must be above 0")
    meld, mosei = plan_meld(seed, scale), plan_mosei(seed, scale)
    ecf = plan_ecf(meld, seed, scale)
    for name in CORPORA:
        shutil.rmtree(out / name, ignore_errors=True)
    write_meld(out / "MELD", meld, seed)
    write_ecf(out / "ECF", ecf, seed)
    write_mosei(out / "MOSEI", mosei, seed)


def store(folder: Path, remote: Path) -> str:
    """Copy a folder's files and their listing into the remote; return the folder's DVC md5 (`....dir`)."""
    listing = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        listing.append({"md5": _put(content, remote), "relpath": path.relative_to(folder).as_posix()})
    listing.sort(key=lambda entry: entry["relpath"])
    return _put(json.dumps(listing, sort_keys=True).encode(), remote, suffix=".dir")


def _put(content: bytes, remote: Path, suffix: str = "") -> str:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest() + suffix
    path = remote / "files" / "md5" / digest[:2] / digest[2:]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return digest


MELD_COLUMNS: Final = (
    "Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode",
    "StartTime", "EndTime",
)  # fmt: skip
MELD_FOLDERS: Final = {
    "train": "train/train_splits",
    "dev": "dev/dev_splits_complete",
    "test": "test/output_repeated_splits_test",
}
MELD_LINES: Final = {"train": 126, "dev": 26, "test": 96}
_MELD_AT_LEAST: Final = {"train": 3, "dev": 1, "test": 2}
_FORCED: Final = {"MELD/train/dia2_utt0": "joy", "MELD/train/dia0_utt0": "anger"}
_SENTIMENTS: Final = {1: "positive", 0: "neutral", -1: "negative"}


def plan_meld(seed: int, scale: float) -> dict[str, list[Conversation]]:
    """Plan the dialogues of each split."""
    return {
        split: make_conversations(
            f"MELD/{split}", round(count * scale), _MELD_AT_LEAST[split], seed, guests=split == "test", forced=_FORCED
        )
        for split, count in MELD_LINES.items()
    }


def clip_name(split: str, dialogue: int, utterance: int) -> str:
    """Return a clip's path relative to the corpus."""
    return f"{MELD_FOLDERS[split]}/dia{dialogue}_utt{utterance}.mp4"


def write_meld(corpus: Path, plan: dict[str, list[Conversation]], seed: int) -> None:
    """Write the three CSV files, the clips and their action units, planted faults included."""
    for split, dialogues in plan.items():
        for dialogue in dialogues:
            for line in dialogue.lines:
                write_line_clip(line, corpus, clip_name(split, dialogue.number, line.number), seed)
        _write_csv(corpus / f"{split}_sent_emo.csv", _meld_rows(split, dialogues, seed))
    extra = planted_fault("MELD", "unannotated clip").file
    write_line_clip(replace(plan["test"][1].lines[0], key=f"MELD/{extra}"), corpus, extra, seed)
    plant_faults(corpus)


def _meld_rows(split: str, dialogues: list[Conversation], seed: int) -> list[tuple[object, ...]]:
    rng = seeded_rng(seed, "MELD", split, "rows")
    duplicate, misspelt = planted_fault("MELD", "duplicate id"), planted_fault("MELD", "misspelt emotion")
    rows: list[tuple[object, ...]] = []
    serial = 0
    for dialogue in dialogues:
        short_hours = bool(rng.random() < 0.3)
        for line in dialogue.lines:
            name = f"dia{dialogue.number}_utt{line.number}" if split == "train" else ""
            emotion = misspelt.value if name == misspelt.row else line.emotion
            for _ in range(2 if name == duplicate.row else 1):
                serial += 1
                rows.append((serial, *_cells(dialogue, line, emotion, short_hours)))
        serial += int(rng.integers(0, 4))
    return rows


def _cells(dialogue: Conversation, line: Line, emotion: str, short_hours: bool) -> tuple[object, ...]:
    times = (clip_time(line.start, short_hours), clip_time(line.end, short_hours))
    label = (line.speaker, emotion, _SENTIMENTS[line.valence])
    return (line.text, *label, dialogue.number, line.number, dialogue.season, dialogue.episode, *times)


def clip_time(seconds: float, short_hours: bool) -> str:
    """Format as MELD does: `00:14:38,127`, or `0:10:44,769` with `short_hours`."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours:02d}:{minutes:02d}:{rest // 1000:02d},{rest % 1000:03d}"
    return text[1:] if short_hours else text


def _write_csv(path: Path, rows: list[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\r\n")
        table.writerow(MELD_COLUMNS)
        table.writerows(rows)


ECF_LINES: Final = {"train": 730, "test": 132}
FROM_MELD: Final = {"train": 24, "dev": 1, "test": 3}
"""Dialogues of each MELD split that ECF train repeats."""
CONFLICT_SHARE: Final = 0.15
"""Share of repeated utterances whose emotion is relabelled (17.7 % between the real corpora)."""
ECF_FIRST_TEST: Final = 101
_NO_CAUSE, _BOTH, _LATER = 0.03, 0.06, 0.01


@dataclass(frozen=True)
class Annotated:
    """A conversation with ECF's labels: one emotion per line, pairs (line, cause) counted from 1."""

    number: int
    conversation: Conversation
    emotions: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]


def plan_ecf(meld: dict[str, list[Conversation]], seed: int, scale: float) -> dict[str, list[Annotated]]:
    """Plan both splits; only dialogues of identities that also act in train are repeated from MELD test."""
    repeated: list[Conversation] = []
    for split, count in FROM_MELD.items():
        pool = [d for i, d in enumerate(meld[split]) if split != "test" or i % 3 != 1]
        repeated += pool[: max(1, round(count * scale))]
    lines = sum(len(dialogue.lines) for dialogue in repeated)
    fresh = make_conversations("ECF/train", round(ECF_LINES["train"] * scale) - lines, 1, seed, small=True)
    train = [_annotate(i, d, seed, relabel=1 < i <= len(repeated)) for i, d in enumerate([*repeated, *fresh], 1)]
    order = seeded_rng(seed, "ECF", "order").permutation(len(train))
    rng = seeded_rng(seed, "ECF", "numbers")
    number, test = ECF_FIRST_TEST, []
    for dialogue in make_conversations("ECF/test", round(ECF_LINES["test"] * scale), 1, seed, guests=True, small=True):
        test.append(_annotate(number, dialogue, seed, relabel=False))
        number += int(rng.integers(1, 4))
    return {"train": [train[int(i)] for i in order], "test": test}


def write_ecf(corpus: Path, plan: dict[str, list[Annotated]], seed: int) -> None:
    """Write both JSON files, the clips and their action units, planted faults included."""
    corpus.mkdir(parents=True, exist_ok=True)
    for split, conversations in plan.items():
        for item in conversations:
            for index, line in enumerate(item.conversation.lines, 1):
                write_line_clip(line, corpus, f"{split}/{_ecf_clip(item, index)}", seed)
        records = [_record(item) for item in conversations]
        text = json.dumps(records, indent=4, ensure_ascii=False)
        (corpus / f"Subtask_2_{split}.json").write_bytes(text.encode())
    plant_faults(corpus)


def _annotate(number: int, conversation: Conversation, seed: int, relabel: bool) -> Annotated:
    rng = seeded_rng(seed, "ECF", conversation.lines[0].key, "labels")
    emotions = [line.emotion for line in conversation.lines]
    for index in range(len(emotions)):
        if relabel and rng.random() < CONFLICT_SHARE:
            others = [name for name in EMOTIONS if name != emotions[index]]
            emotions[index] = "neutral" if emotions[index] != "neutral" else others[int(rng.integers(len(others)))]
    pairs: list[tuple[int, int]] = []
    for target, emotion in enumerate(emotions, 1):
        if emotion != "neutral":
            pairs += [(target, cause) for cause in _causes(target, conversation.lines, rng)]
    return Annotated(number, conversation, tuple(emotions), tuple(pairs))


def _causes(target: int, lines: tuple[Line, ...], rng: np.random.Generator) -> list[int]:
    """Draw the causes of line `target` (from 1): the line that it answers, else itself; rarely both, or a later one."""
    if rng.random() < _NO_CAUSE:
        return []
    answered = lines[target - 1].answers
    causes = [target] if answered is None else [answered + 1]
    if answered is not None and rng.random() < _BOTH:
        causes.append(target)
    if target < len(lines) and rng.random() < _LATER:
        causes.append(target + 1)
    return causes if rng.random() < 0.2 else sorted(causes)


def _ecf_clip(item: Annotated, index: int) -> str:
    return f"dia{item.number}utt{index}.mp4"


def _record(item: Annotated) -> dict[str, Any]:
    source = f"S{item.conversation.season:02d}E{item.conversation.episode:02d}"
    utterances = [
        {
            "utterance_ID": index,
            "text": line.text,
            "speaker": line.speaker,
            "emotion": emotion,
            "video_source": [source, _clock(line.start), _clock(line.end)],
            "video_name": _ecf_clip(item, index),
        }
        for index, (line, emotion) in enumerate(zip(item.conversation.lines, item.emotions, strict=True), 1)
    ]
    pairs = [[f"{target}_{item.emotions[target - 1]}", str(cause)] for target, cause in item.pairs]
    wrong = planted_fault("ECF", "cause index out of range")
    if str(item.number) == wrong.row:
        target = next(i for i, emotion in enumerate(item.emotions, 1) if emotion != "neutral")
        pairs.append([f"{target}_{item.emotions[target - 1]}", wrong.value])
    return {"conversation_ID": item.number, "conversation": utterances, "emotion-cause_pairs": pairs}


def _clock(seconds: float) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"


MOSEI_COLUMNS: Final = (
    "video_id", "clip_id", "text", "label", "annotation", "mode", "label_T", "label_A", "label_V",
)  # fmt: skip
FEATURES: Final = ("sentiment", "joy", "sadness", "anger", "surprise", "disgust", "fear")
"""Columns of the CMU features by this package's names; the SDK's are happy and sad."""
SEGMENTS: Final = {"train": 106, "valid": 16, "test": 58}
_MOSEI_AT_LEAST: Final = {"train": 3, "valid": 1, "test": 1}
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
        while total < round(count * scale) or len(videos) - first < _MOSEI_AT_LEAST[mode]:
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
        partial = bool(rng.random() < PARTIAL_FACE_SHARE[plain])
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
        table.writerow(MOSEI_COLUMNS)
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
