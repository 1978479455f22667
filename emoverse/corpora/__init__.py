"""The corpora, and the utterance: the row that every corpus is turned into and every later step reads.

A new corpus is one module of this package that defines ``CORPUS``, an instance of :class:`Corpus`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Literal

from emoverse.errors import UserError, did_you_mean

Split = Literal["train", "validation", "test"]
SPLITS: Final = ("train", "validation", "test")

# Ekman's six and neutral: the labels of a corpus that declares no others, spelt as in MELD (MOSEI: happy -> joy).
EMOTIONS: Final = ("anger", "sadness", "surprise", "disgust", "joy", "neutral", "fear")


# Do not change an utterance. The class is not frozen, because that makes construction four times slower.
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
    emotion: str | None  # one of the corpus's labels, EMOTIONS by default
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
    """One row (or clip without an annotation) that was set aside, and why.

    ``reason`` is a short stable code such as ``bad-label``, ``duplicate-id``, ``clip-missing``, ``clip-unreadable``.
    """

    row_id: str
    source: str  # file:row, relative to the corpus root
    column: str
    reason: str
    detail: str
    clip: str = ""  # of the row, relative to the corpus root, POSIX, NFC; empty where the row does not name it

    def message(self, folder: Path) -> str:
        """Return ``file:row: column: detail``, for a file in ``folder``."""
        return ": ".join(filter(None, (str(folder / self.source), self.column, self.detail)))


@dataclass(frozen=True)
class Reading:
    """The content of a corpus folder: good rows, bad rows, and counts worth reporting (clamped values, ties)."""

    utterances: list[Utterance]
    quarantined: list[Quarantined]
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Return the number of annotated rows read, good or bad."""
        return len(self.utterances) + len(self.quarantined)


def merged(readings: Iterable[Reading]) -> Reading:
    """Return the readings of a corpus's files as one."""
    whole, notes = Reading([], []), Counter[str]()
    for reading in readings:
        whole.utterances.extend(reading.utterances)
        whole.quarantined.extend(reading.quarantined)
        notes.update(reading.notes)
    return Reading(whole.utterances, whole.quarantined, dict(sorted(notes.items())))


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One corpus and all that the rest of the package needs to know about it.

    Attributes:
        name: Its name in params.yaml and in ids.
        read: Read the corpus folder; raise UserError when a file is missing or unreadable.
        published_clip: Return the path of an utterance's clip in the authors' files; None is the clip's own path
            below a folder named after the corpus.
        emotions: The emotion labels of its utterances, in the order in which prompts list them.
        prompt_labels: The label as prompts of MER spell it, where that differs.
        answer_labels: The label as answers spell it, where that differs.
        quote: The quotation mark around the transcript in prompts of MER.
        published_as_images: Whether the authors show one image a segment (``amt.mosei_media``).
    """

    name: str
    read: Callable[[Path], Reading]
    published_clip: Callable[[Utterance], str] | None = None
    emotions: tuple[str, ...] = EMOTIONS
    prompt_labels: Mapping[str, str] = field(default_factory=dict)
    answer_labels: Mapping[str, str] = field(default_factory=dict)
    quote: str = "'"
    published_as_images: bool = False

    def published_path(self, utterance: Utterance, *, still: bool) -> str:
        """Return the path of a clip, or of its still image (``.png``), in the authors' files."""
        path = self.published_clip(utterance) if self.published_clip else f"{self.name}/{utterance.clip}"
        return path.rpartition(".")[0] + ".png" if still else path


@cache
def corpora() -> dict[str, Corpus]:
    """Return all corpora by name, in order of name."""
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    known = [module.CORPUS for module in modules if hasattr(module, "CORPUS")]
    return {corpus.name: corpus for corpus in sorted(known, key=lambda corpus: corpus.name)}


def get_corpus(name: str) -> Corpus:
    """Return the corpus of this name; raise UserError that names the nearest one."""
    try:
        return corpora()[name]
    except KeyError:
        raise UserError(f"unknown corpus {name!r}", remedy=did_you_mean(name, corpora())) from None
