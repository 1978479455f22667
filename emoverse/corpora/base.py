"""The utterance: the one row every corpus is turned into, and the one table every later step reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

Split = Literal["train", "validation", "test"]
SPLITS: Final = ("train", "validation", "test")

# Ekman's six and neutral, in MELD's words, which this table uses for every corpus (MOSEI: happy -> joy).
EMOTIONS: Final = ("anger", "sadness", "surprise", "disgust", "joy", "neutral", "fear")


# Nobody changes an utterance; but a frozen class takes four times as long to make one, and there is one for every row.
@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class Utterance:
    """One annotated utterance and the clip it was cut to.

    ``clip`` is relative to the corpus root, POSIX, NFC. ``start`` and ``end`` are seconds in the episode or the long
    video, None where the corpus has none. ``sentiment`` is CMU-MOSEI's [-3, 3]; ``intensities`` its six emotions, 0..3.
    ``causes`` are positions (the corpus's own utterance numbers) in file order, None where a corpus has no cause pairs.
    """

    utterance_id: str  # "<corpus>/<split>/<clip stem or video/clip>", unique over all corpora
    corpus: str
    split: Split
    dialogue_id: str  # unique within (corpus, split); MOSEI: the video
    position: int  # the corpus's own number of the utterance inside its dialogue
    speaker: str | None
    text: str
    emotion: str | None  # one of EMOTIONS
    polarity: Literal["negative", "neutral", "positive"] | None
    sentiment: float | None
    intensities: tuple[float, ...] | None  # happy, sad, anger, surprise, disgust, fear
    causes: tuple[int, ...] | None
    episode: str | None  # "S01E02"
    start: float | None
    end: float | None
    clip: str
    source: str  # "train_sent_emo.csv:412", for messages


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """One row (or clip nobody annotates) that was set aside, and why.

    ``reason`` is a short stable code such as ``bad-label``, ``duplicate-id``, ``clip-missing``, ``clip-unreadable``.
    """

    row_id: str
    source: str  # file:row, relative to the corpus root
    column: str
    reason: str
    detail: str
    clip: str = ""  # of the row, relative to the corpus root, POSIX, NFC; empty where the row does not say

    def said(self, folder: Path) -> str:
        """Return ``file:row: column: what``, for a file in ``folder``."""
        return ": ".join(filter(None, (str(folder / self.source), self.column, self.detail)))


@dataclass(frozen=True)
class Reading:
    """What a reader made of a corpus folder: good rows, bad rows, and counts worth reporting (clamped values, ties)."""

    utterances: list[Utterance]
    quarantined: list[Quarantined]
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Return the number of annotated rows read, good or bad."""
        return len(self.utterances) + len(self.quarantined)


Reader = Callable[[Path], Reading]
