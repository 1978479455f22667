"""Make validated folders out of utterances, as ``validate`` would leave them, clips aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emoverse.artifacts import tables
from emoverse.artifacts.manifest import publish
from emoverse.corpora import EMOTIONS, Utterance


def utterance(**changes: Any) -> Utterance:
    """Return a MELD-like utterance; a change to split, dialogue or position changes the id and clip too."""
    base: dict[str, Any] = {
        "corpus": "meld", "split": "train", "dialogue_id": "0", "position": 0, "speaker": "Ann", "text": "Well, hello.",
        "emotion": "joy", "polarity": "positive", "sentiment": None, "intensities": None, "causes": None,
        "episode": None, "start": None, "end": None, "source": "made:1",
    }  # fmt: skip
    base |= changes
    stem = f"dia{base['dialogue_id']}_utt{base['position']}"
    base.setdefault("utterance_id", f"{base['corpus']}/{base['split']}/{stem}")
    base.setdefault("clip", f"{base['split']}/{stem}.mp4")
    return Utterance(**base)


def corpus(name: str = "meld", dialogues: int = 24, length: int = 4, **changes: Any) -> list[Utterance]:
    """Return dialogues of a corpus, five of eight for training, all emotions and signs in each split."""
    made = []
    for number in range(dialogues):
        split = ("train", "train", "train", "train", "train", "validation", "test", "test")[number % 8]
        for position in range(1, length + 1):
            turn = number * length + position
            emotion = EMOTIONS[turn % 7]
            sentiment = (-2.0, 1.0, 0.0, 2.5)[turn % 4] if name == "mosei" else None
            made.append(
                utterance(**({
                    "corpus": name, "split": split, "dialogue_id": str(number), "position": position,
                    "speaker": None if name == "mosei" else ("Ann", "Bob", "Cy")[turn % 3],
                    "text": f"So {name} went to shop number {turn} for bread.", "emotion": emotion,
                    "polarity": ("negative", "neutral", "positive")[turn % 3] if name != "ecf" else None,
                    "sentiment": sentiment, "causes": (_causes(emotion, position)) if name == "ecf" else None,
                } | changes))
            )  # fmt: skip
    return made


def _causes(emotion: str, position: int) -> tuple[int, ...]:
    return () if emotion == "neutral" else tuple(dict.fromkeys((max(1, position - 1), position)))


def validated(
    folder: Path, utterances: Sequence[Utterance], units: Mapping[str, Mapping[str, float]] | None = None
) -> Path:
    """Write a finished folder of ``validate`` that holds these utterances, and AU intensities (``AU01_r``) by id."""
    with publish(folder, step="validate", params={}, inputs={}) as draft:
        tables.write_utterances(draft.path / "utterances.parquet", sorted(utterances, key=lambda one: one.utterance_id))
        if units is not None:
            names = sorted({name for row in units.values() for name in row})
            rows = [
                tables.ActionUnitRow(
                    utterance_id=one, frame=3, intensities={name: row.get(name, 0.0) for name in names}
                )
                for one, row in sorted(units.items())
            ]
            tables.write_action_units(draft.path / "action_units.parquet", names, rows)
    return folder
