"""Make a tiny MELD folder: three CSVs as published, and a real clip for each row."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.factories.clips import write_clip, write_openface

COLUMNS = (
    "Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode",
    "StartTime", "EndTime",
)  # fmt: skip
FOLDERS = {
    "train": "train/train_splits",
    "dev": "dev/dev_splits_complete",
    "test": "test/output_repeated_splits_test",
}
POLARITY = {"joy": "positive", "neutral": "neutral", "surprise": "positive"}


def make_meld(
    root: Path,
    rows: Mapping[str, int] = {"train": 6, "dev": 2, "test": 2},
    *,
    text: str = "No, I don't.",
    dialogue_of: int = 3,
    openface: Sequence[float] = (),
) -> Path:
    """Write ``rows`` utterances a split in dialogues of three; every clip has 24 frames and lasts a second."""
    template = write_clip(root / "template.mp4")
    for split, count in rows.items():
        (root / FOLDERS[split]).mkdir(parents=True)
        with (root / f"{split}_sent_emo.csv").open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle, lineterminator="\r\n")
            writer.writerow(COLUMNS)
            for n in range(count):
                dialogue, utterance = divmod(n, dialogue_of)
                emotion = ("neutral", "joy", "anger", "surprise", "sadness", "fear", "disgust")[n % 7]
                polarity = POLARITY.get(emotion, "negative")
                span = [f"00:00:{n % 50:02d},000", f"00:00:{n % 50 + 1:02d},000"]
                writer.writerow([n + 1, text, "Ross", emotion, polarity, dialogue, utterance, 1, 2, *span])
                stem = f"{FOLDERS[split]}/dia{dialogue}_utt{utterance}"
                shutil.copy(template, root / f"{stem}.mp4")
                if openface:
                    write_openface(root / "OpenFace" / f"{stem}.csv", openface, frames=24)
    template.unlink()
    return root


def clip(root: Path, dialogue: int, utterance: int, split: str = "train") -> Path:
    """Return the path of a clip."""
    return root / FOLDERS[split] / f"dia{dialogue}_utt{utterance}.mp4"


def edit(root: Path, old: str, new: str, split: str = "train") -> None:
    """Replace a piece of a split's CSV, which must be there once."""
    path = root / f"{split}_sent_emo.csv"
    blob = path.read_bytes()
    assert blob.count(old.encode()) == 1, f"{old!r} occurs {blob.count(old.encode())} times"
    path.write_bytes(blob.replace(old.encode(), new.encode()))
