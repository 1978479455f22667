"""Read MELD (declare-lab/MELD): three CSVs beside the folders its archives unpack to.

``{train,dev,test}_sent_emo.csv``; clips ``dia{Dialogue_ID}_utt{Utterance_ID}.mp4``. Dialogue ids restart in each split
and have gaps, utterance ids have gaps, hours have one digit or two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Literal, cast

from emoverse.corpora import EMOTIONS, Corpus, Reading, Split, Utterance, merged
from emoverse.corpora.files import (
    BadRow,
    Problems,
    Row,
    cleaned,
    emotion_hint,
    episode_name,
    faults_of,
    find_folder,
    rows_of,
    seconds,
    whole_number,
)
from emoverse.errors import did_you_mean

FILES: Final[dict[Split, tuple[str, str]]] = {
    "train": ("train_sent_emo.csv", "train/train_splits"),
    "validation": ("dev_sent_emo.csv", "dev/dev_splits_complete"),
    "test": ("test_sent_emo.csv", "test/output_repeated_splits_test"),
}
"""Each split's annotation file and clip folder."""
COLUMNS: Final = (
    "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode",
    "StartTime", "EndTime",
)  # fmt: skip
Polarity = Literal["negative", "neutral", "positive"]
POLARITIES: Final = ("negative", "neutral", "positive")


def read(root: Path) -> Reading:
    """Read the whole corpus; raise UserError when a CSV is missing or unreadable."""
    return merged(read_split(root / name, split, clip_folder(root, split)) for split, (name, _) in FILES.items())


def clip_folder(root: Path, split: Split) -> str:
    """Return the folder of a split's clips: as its archive unpacks, without the outer folder, or one deeper."""
    folder = FILES[split][1]
    return find_folder(root, (folder, folder.rpartition("/")[2]), "dia*_utt*")


def read_split(path: Path, split: Split, folder: str = "") -> Reading:
    """Read one annotation file as a split of MELD; ``folder`` is that of its clips."""
    problems = Problems(path.name)
    good: list[Utterance] = []
    seen: dict[str, int] = {}
    for row in rows_of(path, COLUMNS, problems):
        stem = f"dia{row.cells[4]}_utt{row.cells[5]}"
        row_id, clip = f"meld/{split}/{stem}", f"{folder or FILES[split][1]}/{stem}.mp4"
        try:
            utterance = _utterance(row, split, row_id, clip, problems)
            if seen.setdefault(row_id, row.line) != row.line:
                raise BadRow("Utterance_ID", "duplicate-id", f"{row_id} is already on line {seen[row_id]}")
            good.append(utterance)
        except BadRow as error:
            problems.add_all(row_id, row.line, faults_of(error, _checks(row)), clip=clip)
    return Reading(good, problems.bad_rows, dict(problems.notes))


def _utterance(row: Row, split: Split, row_id: str, clip: str, problems: Problems) -> Utterance:
    """Turn a row into an utterance; raise BadRow for its first fault."""
    text, speaker, emotion, polarity, dialogue, number, season, episode, start, end = row.cells
    _number("Dialogue_ID", dialogue)
    position = _number("Utterance_ID", number)
    aired = episode_name(_number("Season", season), _number("Episode", episode))
    _labels(emotion, polarity)
    text = cleaned("Utterance", text, problems.notes)
    begin, finish = _span(start, end)
    return Utterance(
        utterance_id=row_id, corpus="meld", split=split, dialogue_id=dialogue, position=position,
        speaker=speaker or None, text=text, emotion=emotion,
        polarity=cast(Polarity, polarity),
        sentiment=None, intensities=None, causes=None,
        episode=aired, start=begin, end=finish,
        clip=clip, source=f"{problems.name}:{row.line}",
    )  # fmt: skip


def _checks(row: Row) -> list[Callable[[], object]]:
    """Return the checks of a row, each on its own."""
    text, _, emotion, polarity, dialogue, number, season, episode, start, end = row.cells
    numbers = ("Dialogue_ID", dialogue), ("Utterance_ID", number), ("Season", season), ("Episode", episode)
    return [
        *(partial(_number, column, text) for column, text in numbers),
        partial(_labels, emotion, POLARITIES[0]),
        partial(_labels, EMOTIONS[0], polarity),
        partial(cleaned, "Utterance", text, Counter()),
        partial(_span, start, end),
        partial(_seconds, "EndTime", end),
    ]


def _labels(emotion: str, polarity: str) -> None:
    if emotion not in EMOTIONS:
        raise BadRow("Emotion", "bad-label", f"{emotion!r} is not an emotion; {emotion_hint(emotion)}")
    if polarity not in POLARITIES:
        raise BadRow("Sentiment", "bad-label", f"{polarity!r} is not a sentiment; {did_you_mean(polarity, POLARITIES)}")


def _span(start: str, end: str) -> tuple[float, float]:
    begin, finish = _seconds("StartTime", start), _seconds("EndTime", end)
    if finish < begin:
        raise BadRow("EndTime", "span-backwards", f"ends at {end}, before it begins at {start}")
    return begin, finish


def _number(column: str, text: str) -> int:
    value = whole_number(text)
    if value is None:
        raise BadRow(column, "bad-number", f"{text!r} is not a whole number")
    return value


def _seconds(column: str, text: str) -> float:
    time = seconds(text)
    if time is None:
        raise BadRow(column, "bad-time", f"{text!r} is not h:mm:ss,mmm")
    return time


def _published_clip(utterance: Utterance) -> str:
    """Return the authors' path of a clip: the split's inner folder is below ``MELD``."""
    return "MELD/" + "/".join(utterance.clip.split("/")[-2:])


CORPUS = Corpus(name="meld", read=read, published_clip=_published_clip)
