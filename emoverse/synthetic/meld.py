"""Write the sample's MELD in the layout of declare-lab/MELD (MELD.Raw.tar.gz after unpacking)."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Final

from emoverse.synthetic.lines import (
    Conversation,
    Line,
    make_conversations,
    plant_faults,
    planted_fault,
    seeded_rng,
    write_line_clip,
)

COLUMNS: Final = (
    "Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode",
    "StartTime", "EndTime",
)  # fmt: skip
FOLDERS: Final = {
    "train": "train/train_splits",
    "dev": "dev/dev_splits_complete",
    "test": "test/output_repeated_splits_test",
}
LINES: Final = {"train": 126, "dev": 26, "test": 96}
_AT_LEAST: Final = {"train": 3, "dev": 1, "test": 2}
_FORCED: Final = {"MELD/train/dia2_utt0": "joy", "MELD/train/dia0_utt0": "anger"}
_SENTIMENTS: Final = {1: "positive", 0: "neutral", -1: "negative"}


def plan_meld(seed: int, scale: float) -> dict[str, list[Conversation]]:
    """Plan the dialogues of each split."""
    return {
        split: make_conversations(
            f"MELD/{split}", round(count * scale), _AT_LEAST[split], seed, guests=split == "test", forced=_FORCED
        )
        for split, count in LINES.items()
    }


def clip_name(split: str, dialogue: int, utterance: int) -> str:
    """Return a clip's path relative to the corpus."""
    return f"{FOLDERS[split]}/dia{dialogue}_utt{utterance}.mp4"


def write_meld(corpus: Path, plan: dict[str, list[Conversation]], seed: int) -> None:
    """Write the three CSV files, the clips and their action units, planted faults included."""
    for split, dialogues in plan.items():
        for dialogue in dialogues:
            for line in dialogue.lines:
                write_line_clip(line, corpus, clip_name(split, dialogue.number, line.number), seed)
        _write_csv(corpus / f"{split}_sent_emo.csv", _rows(split, dialogues, seed))
    extra = planted_fault("MELD", "unannotated clip").file
    write_line_clip(replace(plan["test"][1].lines[0], key=f"MELD/{extra}"), corpus, extra, seed)
    plant_faults(corpus)


def _rows(split: str, dialogues: list[Conversation], seed: int) -> list[tuple[object, ...]]:
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
        table.writerow(COLUMNS)
        table.writerows(rows)
