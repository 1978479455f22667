"""Read MELD (declare-lab/MELD): three CSVs beside the folders its archives unpack to.

``{train,dev,test}_sent_emo.csv``; clips ``dia{Dialogue_ID}_utt{Utterance_ID}.mp4``. Dialogue ids restart in each split
and have gaps, utterance ids have gaps, hours have one digit or two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, cast

from emoverse.corpora.base import EMOTIONS, Quarantined, Reading, Split, Utterance
from emoverse.corpora.files import BadRow, Problems, rows_of, whole_number
from emoverse.corpora.hints import emotion_hint
from emoverse.corpora.memory import uncollected
from emoverse.corpora.times import episode_name, seconds
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
POLARITIES: Final = ("negative", "neutral", "positive")


def read(root: Path) -> Reading:
    """Read the whole corpus; raise UserError when a CSV is missing or unreadable."""
    utterances: list[Utterance] = []
    quarantined: list[Quarantined] = []
    for split, (name, _) in FILES.items():
        one = read_split(root / name, split)
        utterances += one.utterances
        quarantined += one.quarantined
    return Reading(utterances, quarantined)


@uncollected()
def read_split(path: Path, split: Split) -> Reading:
    """Read one annotation file as a split of MELD."""
    problems = Problems(path.name)
    good: list[Utterance] = []
    seen: dict[str, int] = {}
    for row in rows_of(path, COLUMNS, problems):
        stem = f"dia{row.cells[4]}_utt{row.cells[5]}"
        row_id, clip = f"meld/{split}/{stem}", f"{FILES[split][1]}/{stem}.mp4"
        try:
            utterance = _utterance(row.cells, split, row_id, clip, f"{problems.name}:{row.line}")
            if seen.setdefault(row_id, row.line) != row.line:
                raise BadRow("Utterance_ID", "duplicate-id", f"{row_id} is already on line {seen[row_id]}")
            good.append(utterance)
        except BadRow as fault:
            problems.add(row_id, row.line, fault.column, fault.reason, fault.detail, clip=clip)
    return Reading(good, problems.found)


def _utterance(cells: tuple[str, ...], split: Split, row_id: str, clip: str, source: str) -> Utterance:
    """Turn a row into an utterance; raise BadRow for its first fault."""
    text, speaker, emotion, polarity, dialogue, number, season, episode, start, end = cells
    numbers = whole_number(dialogue), whole_number(number), whole_number(season), whole_number(episode)
    dialogue_number, position, *aired = numbers
    if dialogue_number is None or position is None or aired[0] is None or aired[1] is None:
        first = COLUMNS.index("Dialogue_ID") + numbers.index(None)
        raise BadRow(COLUMNS[first], "bad-number", f"{cells[first]!r} is not a whole number")
    if emotion not in EMOTIONS:
        raise BadRow("Emotion", "bad-label", f"{emotion!r} is not an emotion; {emotion_hint(emotion)}")
    if polarity not in POLARITIES:
        raise BadRow("Sentiment", "bad-label", f"{polarity!r} is not a sentiment; {did_you_mean(polarity, POLARITIES)}")
    if not text.strip():
        raise BadRow("Utterance", "empty-text", "the utterance has no words")
    begin, finish = seconds(start), seconds(end)
    if begin is None or finish is None:
        column, word = ("StartTime", start) if begin is None else ("EndTime", end)
        raise BadRow(column, "bad-time", f"{word!r} is not h:mm:ss,mmm")
    if finish < begin:
        raise BadRow("EndTime", "span-backwards", f"ends at {end}, before it begins at {start}")
    return Utterance(
        utterance_id=row_id, corpus="meld", split=split, dialogue_id=dialogue, position=position,
        speaker=speaker or None, text=text, emotion=emotion,
        polarity=cast(Literal["negative", "neutral", "positive"], polarity),
        sentiment=None, intensities=None, causes=None,
        episode=episode_name(aired[0], aired[1]), start=begin, end=finish, clip=clip, source=source,
    )  # fmt: skip
