"""Write small corpora in the real layouts, to be broken by tests."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MELD_HEADER = (
    "Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode",
    "StartTime", "EndTime",
)  # fmt: skip
MOSEI_HEADER = ("video_id", "clip_id", "text", "label", "annotation", "mode", "label_T", "label_A", "label_V")


def meld_row(**changes: str) -> dict[str, str]:
    """Return one good MELD row."""
    row = {
        "Sr No.": "1", "Utterance": "Oh, I see.", "Speaker": "Ann", "Emotion": "joy", "Sentiment": "positive",
        "Dialogue_ID": "0", "Utterance_ID": "0", "Season": "8", "Episode": "21", "StartTime": "00:16:16,059",
        "EndTime": "0:16:21,731",
    }  # fmt: skip
    assert changes.keys() <= row.keys()
    return row | changes


def csv_bytes(header: Sequence[str], rows: Sequence[Mapping[str, str]]) -> bytes:
    """Return a CSV with CRLF line ends, as the corpora have."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(header)
    writer.writerows([[row.get(name, "") for name in header] for row in rows])
    return out.getvalue().encode("utf-8")


def write_meld(root: Path, rows: Sequence[Mapping[str, str]] | None = None) -> Path:
    """Write the three CSVs; ``rows`` are the train split's."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("train", "dev", "test"):
        own = rows if name == "train" and rows is not None else [meld_row()]
        (root / f"{name}_sent_emo.csv").write_bytes(csv_bytes(MELD_HEADER, own))
    return root


def ecf_utterance(number: int, conversation: int = 1, **changes: Any) -> dict[str, Any]:
    """Return one good ECF utterance."""
    return {
        "utterance_ID": number, "text": f"Line {number} .", "speaker": "Ann", "emotion": "joy",
        "video_source": ["S01E02", f"00:00:{number:02d}.000", f"00:00:{number:02d}.900"],
        "video_name": f"dia{conversation}utt{number}.mp4",
    } | changes  # fmt: skip


def ecf_conversation(number: int = 1, length: int = 3, **changes: Any) -> dict[str, Any]:
    """Return one good conversation whose last utterance is caused by the one before and by itself."""
    return {
        "conversation_ID": number,
        "conversation": [ecf_utterance(i, number) for i in range(1, length + 1)],
        "emotion-cause_pairs": [[f"{length}_joy", str(length)], [f"{length}_joy", "1"]],
    } | changes


def write_ecf(root: Path, train: Sequence[Any] | None = None) -> Path:
    """Write both JSON files; ``train`` are the train split's conversations."""
    root.mkdir(parents=True, exist_ok=True)
    listed = [ecf_conversation()] if train is None else list(train)
    (root / "Subtask_2_train.json").write_text(json.dumps(listed), "utf-8")
    (root / "Subtask_2_test.json").write_text(json.dumps([ecf_conversation(2)]), "utf-8")
    return root


def mosei_row(**changes: str) -> dict[str, str]:
    """Return one good row of label.csv."""
    row = {
        "video_id": "128258", "clip_id": "9", "text": "IT WAS GOOD", "label": "-2.6667", "annotation": "Negative",
        "mode": "train", "label_T": "", "label_A": "", "label_V": "",
    }  # fmt: skip
    assert changes.keys() <= row.keys()
    return row | changes


def write_mosei(
    root: Path,
    rows: Sequence[Mapping[str, str]],
    segments: Mapping[str, Sequence[tuple[float, float, Sequence[float]]]] | None = None,
    times: Mapping[str, Sequence[tuple[str, float, float]]] | None = None,
) -> Path:
    """Write label.csv, and with ``segments`` (start, end, seven labels) by video the csd and its transcripts."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "label.csv").write_bytes(csv_bytes(MOSEI_HEADER, rows))
    if segments is not None:
        import h5py
        import numpy as np

        with h5py.File(root / "CMU_MOSEI_Labels.csd", "w") as file:
            for video, spans in segments.items():
                group = file.create_group(f"All Labels/data/{video}")
                group["features"] = np.array([labels for _, _, labels in spans], dtype=np.float32)
                group["intervals"] = np.array([[start, end] for start, end, _ in spans], dtype=np.float32)
        folder = root / "Transcript/Segmented/Combined"
        folder.mkdir(parents=True)
        for video, clips in (times or {}).items():
            lines = [f"{video}___{clip}___{start}___{end}___words \n" for clip, start, end in clips]
            (folder / f"{video}.txt").write_text("".join(lines), "utf-8")
    return root
