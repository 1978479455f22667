"""Plan who says what in the sample, record each line as a clip, and damage some clips on purpose."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from emoverse.synthetic.clips import FPS, Rendered, render, write_clip, write_units
from emoverse.synthetic.faces import EMOTIONS, MISLEADING, FaceStyle, Identity, animate
from emoverse.synthetic.phrases import PLAIN_SHARE, TEST_TOPICS, TOPICS, make_text, valence_of

NAMES: Final = (
    "Anouk", "Bashir", "Corin", "Dilara", "Emeka", "Frida", "Goran", "Hanneke", "Idris", "Jolanda", "Kwame",
    "Lotte", "Mirela", "Nadir", "Oksana", "Pavel", "Quirin", "Renske", "Soraya", "Tibor", "Ulla", "Viggo",
    "Wanda", "Yusuf",
)  # fmt: skip
"""The cast of MELD and ECF: name number i is identity i."""

GUESTS: Final = (
    "Aziza", "Bram", "Chidi", "Doortje", "Edina", "Fedor", "Gudrun", "Hamza", "Ilka", "Joost", "Katya",
    "Ludo",
)  # fmt: skip
"""The guests of MELD and ECF test: name number i is identity 40 + i."""

FIRST_GUEST: Final = 40
VLOGGERS: Final = tuple(range(24, 40))
"""Identities of MOSEI's videos, one to a video."""
GUEST_VLOGGERS: Final = tuple(range(52, 60))
"""Identities of MOSEI's videos that occur in test only."""

VIDEO_IDS: Final = (
    "DyojyP3V9UW", "125341", "-zLF6XNyuwv", "m_IxXr3c_Nt", "JKC4LKdVQWV", "124801", "oHjLjwVE9Zd",
    "A-duFXCszVN", "Dz8Rbzac1qu", "283053", "zNpoGFvd_Kq", "-BGTcREXeP4", "Jg0mJyp43_Q", "158059",
    "wnHsC7rXb-8", "i7Dw0yNrJwy", "T69Ryz14BNP", "227604", "U34njfrDgkd", "2cSiP3P1N83", "-iDpSpTzHW9",
    "229139", "2IbOExY9NYY", "wd2-ObQEQXo", "dQUBGV-oEuu", "135601", "ib1brBELBeF", "nr7JxKjYIBH",
    "9ZtXoXyg-HI", "61898", "zC1rhDR8y8K", "C-0Qx0xq3oF", "sCCFEmqEmpN", "113914", "4X2oyKIq3gY",
    "SzgwYn6kPgk", "h1kf_WC92p7", "39115", "-F5ScVs0jEV", "xON4bIs2T_l",
)  # fmt: skip
"""Invented video ids shaped like MOSEI's: some all digits, some starting with `-`; none is in CMU-MOSEI."""


SIZES: Final = ((96, 96), (128, 96), (112, 112), (96, 120))
"""Frame sizes of the clips, (width, height) in pixels; one to a conversation or video."""

SMALL: Final = (72, 72)
"""The frame size of ECF's own clips, which are many."""

DIALOGUE_EMOTIONS: Final = (*EMOTIONS, *EMOTIONS, "neutral", "joy", "joy", "surprise")
"""Emotions of the lines, shuffled: joy four times in eighteen, neutral and surprise three times, the others twice."""

ADDRESS_SHARE: Final = 0.65
"""Share of a dialogue's lines that begin with the name of the person whom they answer, once there is one."""
FAR_SHARE: Final = 0.8
"""Share of these that answer a line before the previous one, where another person said one."""

FAINT_SHARE: Final = 0.1
"""Share of lines that are said with a faint face."""
AUDIO_SHARE: Final = 0.10
"""Share of clips with sound."""
PARTIAL_FACE_SHARE: Final = {True: 0.85, False: 0.2}
"""Whether the words are plain -> share of faces that show only units that other emotions show, too.

Mostly one of the two tells the emotion: neither is enough alone, and both together settle most lines.
"""
PARTIAL_FACE: Final = FaceStyle(partial=1.0, parts=MISLEADING, partial_peak=3.8, stray=0.12)
PLAIN_FACE: Final = FaceStyle(partial=0.0, stray=0.12)
OPENFACE_FOLDER: Final = "OpenFace"


@dataclass(frozen=True)
class Line:
    """One utterance and how its clip is drawn; times in seconds; `key` seeds the clip.

    A `low` face is faint, a `partial` one shows only units that other emotions show, too.
    `answers` is the place (from 0) of the line of the dialogue that this one answers, None when it answers none.
    """

    key: str
    number: int
    speaker: str
    identity: int
    emotion: str
    valence: int
    low: bool
    partial: bool
    text: str
    start: float
    n_frames: int
    size: tuple[int, int]
    answers: int | None = None

    @property
    def end(self) -> float:
        """Return when the clip ends."""
        return self.start + self.n_frames / FPS


@dataclass(frozen=True)
class Conversation:
    """A dialogue of a series: its episode and its lines."""

    number: int
    season: int
    episode: int
    lines: tuple[Line, ...]


def seeded_rng(seed: int, *names: object) -> np.random.Generator:
    """Return the random generator that belongs to a seed and a name."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, names)).encode())])


def cycle_shuffled(items: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    """Yield the items without end, shuffled anew each time all were yielded."""
    while True:
        for index in rng.permutation(len(items)):
            yield items[int(index)]


def make_conversations(
    name: str,
    n_lines: int,
    at_least: int,
    seed: int,
    guests: bool = False,
    forced: dict[str, str] | None = None,
    small: bool = False,
) -> list[Conversation]:
    """Plan conversations until there are `n_lines` lines and `at_least` conversations.

    Args:
        name: Corpus and split, such as `MELD/train`; part of every line's key.
        n_lines: Smallest number of lines.
        at_least: Smallest number of conversations.
        seed: Seed of everything random.
        guests: Every third conversation is among identities that occur nowhere else.
        forced: Key of a line (`{name}/dia{i}_utt{j}`) -> its emotion.
        small: Short conversations of small, short clips.
    """
    emotions = cycle_shuffled(DIALOGUE_EMOTIONS, seeded_rng(seed, name, "deck"))
    made: list[Conversation] = []
    total = 0
    while total < n_lines or len(made) < at_least:
        guest = guests and len(made) % 3 == 1
        conversation = _conversation(name, len(made), seed, guest, emotions, forced or {}, small)
        made.append(conversation)
        total += len(conversation.lines)
    return made


def _conversation(
    name: str,
    number: int,
    seed: int,
    guests: bool,
    emotions: Iterator[str],
    forced: dict[str, str],
    small: bool,
) -> Conversation:
    rng = seeded_rng(seed, name, number)
    names, first = (GUESTS, FIRST_GUEST) if guests else (NAMES, 0)
    people = [int(i) for i in rng.choice(len(names), int(rng.integers(3, 5)), replace=False)]
    topics = TEST_TOPICS if name.endswith("/test") else TOPICS
    topic = topics[int(rng.integers(len(topics)))]
    size = SMALL if small else SIZES[int(rng.choice(len(SIZES), p=[0.4, 0.3, 0.15, 0.15]))]
    clock = float(rng.integers(60_000, 1_300_000)) / 1000
    used: set[str] = set()
    lines: list[Line] = []
    utterance, turn = 0, int(rng.integers(len(people)))
    for index in range(int(rng.integers(4, 6) if small else rng.integers(3, 9))):
        if index >= 3 and rng.random() < 0.08:
            utterance += 1
        key = f"{name}/dia{number}_utt{utterance}"
        emotion = forced.get(key, next(emotions))
        valence = valence_of(emotion, rng)
        answers = _addressed(lines, names[people[turn]], rng)
        plain = bool(rng.random() < PLAIN_SHARE)
        text = make_text(emotion, valence, plain, topic, used, rng)
        line = Line(
            key=key,
            number=utterance,
            speaker=names[people[turn]],
            identity=first + people[turn],
            emotion=emotion,
            valence=valence,
            low=bool(rng.random() < FAINT_SHARE),
            partial=bool(rng.random() < PARTIAL_FACE_SHARE[plain]),
            text=text if answers is None else f"{lines[answers].speaker}, {_uncapitalised(text)}",
            start=round(clock, 3),
            n_frames=int(rng.integers(8, 10) if small else rng.integers(12, 19)),
            size=size,
            answers=answers,
        )
        lines.append(line)
        clock = line.end + float(rng.uniform(0.05, 1.5))
        utterance += 1
        turn = (turn + int(rng.integers(1, len(people)))) % len(people)
    return Conversation(number, int(rng.integers(1, 5)), int(rng.integers(1, 13)), tuple(lines))


def _addressed(lines: Sequence[Line], speaker: str, rng: np.random.Generator) -> int | None:
    """Draw the line (from 0) that the next one answers: the latest of another person, who is then called by name."""
    latest = sorted({line.speaker: place for place, line in enumerate(lines) if line.speaker != speaker}.values())
    if not latest or rng.random() >= ADDRESS_SHARE:
        return None
    far = [place for place in latest if place < len(lines) - 1]
    choice = far if far and rng.random() < FAR_SHARE else latest
    return choice[int(rng.integers(len(choice)))]


def _uncapitalised(text: str) -> str:
    return text if text.startswith(("I ", "I'")) else text[0].lower() + text[1:]


def render_line(line: Line, seed: int) -> Rendered:
    """Draw a line's frames and true action units: always the same for the same line and seed."""
    rng = seeded_rng(seed, line.key, "clip")
    mouth = (12 if line.valence > 0 else 15) if line.emotion == "surprise" else None
    expression = animate(
        line.emotion, rng, low=line.low, style=PARTIAL_FACE if line.partial else PLAIN_FACE, mouth=mouth
    )
    return render(Identity.from_seed(line.identity), expression, line.size, FPS, line.n_frames, rng)


def write_line_clip(line: Line, corpus: Path, clip: str, seed: int) -> None:
    """Write `corpus/clip` (.mp4) and `corpus/OpenFace/clip` (.csv) of a line.

    Args:
        line: The utterance.
        corpus: Root of the corpus.
        clip: Path of the clip, relative to the root.
        seed: Seed of the sample.
    """
    rendered = render_line(line, seed)
    rng = seeded_rng(seed, line.key, "recording")
    jaw = rendered.units[:, -3] / 5.0
    write_clip(corpus / clip, rendered.frames, jaw if rng.random() < AUDIO_SHARE else None)
    write_units(units_path(corpus, clip), rendered.units, rng, separator=",")


def units_path(corpus: Path, clip: str) -> Path:
    """Return where the action units of a clip (path relative to the corpus) are."""
    return (corpus / OPENFACE_FOLDER / clip).with_suffix(".csv")


@dataclass(frozen=True)
class PlantedFault:
    """A planted fault: its kind, file (relative to the corpus), row (by its id) and wrong value."""

    corpus: str
    kind: str
    file: str
    row: str = ""
    value: str = ""


FAULTS: Final = (
    PlantedFault("MELD", "truncated clip", "train/train_splits/dia0_utt1.mp4"),
    PlantedFault("MELD", "zero-byte clip", "dev/dev_splits_complete/dia0_utt1.mp4"),
    PlantedFault("MELD", "missing clip", "test/output_repeated_splits_test/dia1_utt2.mp4"),
    PlantedFault("MELD", "unannotated clip", "test/output_repeated_splits_test/dia1_utt19.mp4"),
    PlantedFault("MELD", "duplicate id", "train_sent_emo.csv", "dia1_utt0"),
    PlantedFault("MELD", "misspelt emotion", "train_sent_emo.csv", "dia2_utt0", "hapy"),
    PlantedFault("ECF", "cause index out of range", "Subtask_2_train.json", "1", "99"),
    PlantedFault("ECF", "truncated clip", "train/dia2utt1.mp4"),
    PlantedFault("ECF", "missing clip", "test/dia101utt2.mp4"),
    PlantedFault("MOSEI", "sentiment out of range", "label.csv", f"{VIDEO_IDS[0]}/1", "4.0"),
    PlantedFault("MOSEI", "zero-byte clip", f"Raw/{VIDEO_IDS[1]}/0.mp4"),
    PlantedFault("MOSEI", "missing clip", f"Raw/{VIDEO_IDS[2]}/1.mp4"),
    PlantedFault("MOSEI", "unannotated clip", f"Raw/{VIDEO_IDS[0]}/30.mp4"),
)
"""All of them. No faults but part of the real layouts: a CMU emotion above 3, ties, an emotion without a cause."""


def planted_fault(corpus: str, kind: str) -> PlantedFault:
    """Return the corpus's fault of a kind; raise KeyError when there is none."""
    for planted in FAULTS:
        if (planted.corpus, planted.kind) == (corpus, kind):
            return planted
    raise KeyError(f"{corpus} has no planted fault '{kind}'")


def plant_faults(corpus: Path) -> None:
    """Truncate, empty or remove the clips that the faults name, and remove their OpenFace tables."""
    for planted in FAULTS:
        if planted.corpus != corpus.name:
            continue
        path = corpus / planted.file
        match planted.kind:
            case "truncated clip":
                whole = path.read_bytes()
                path.write_bytes(whole[: len(whole) * 6 // 10])
            case "zero-byte clip":
                path.write_bytes(b"")
            case "missing clip":
                path.unlink()
            case _:
                continue
        units_path(corpus, planted.file).unlink()
