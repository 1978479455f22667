"""Define the people of the sample, and plan who says what."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from emoverse.synthetic.clips import FPS
from emoverse.synthetic.expressions import EMOTIONS, LOW_SHARE
from emoverse.synthetic.phrases import TEST_TOPICS, TOPICS, make_text, valence_of

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

DIALOGUE_EMOTIONS: Final = (*EMOTIONS, *EMOTIONS, "neutral", "joy", "surprise")
"""Emotions of the lines, shuffled: neutral, joy and surprise three times in seventeen, the other four twice."""

ADDRESS_SHARE: Final = 0.65
"""Share of a dialogue's lines that begin with the name of the person whom they answer, once there is one."""
FAR_SHARE: Final = 0.8
"""Share of these that answer a line before the previous one, where another person said one."""


@dataclass(frozen=True)
class Line:
    """One utterance and how its clip is drawn; times in seconds; `key` seeds the clip.

    `answers` is the place (from 0) of the line of the dialogue that this one answers, None when it answers none.
    """

    key: str
    number: int
    speaker: str
    identity: int
    emotion: str
    valence: int
    low: bool
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
        text = make_text(emotion, valence, topic, used, rng)
        line = Line(
            key=key,
            number=utterance,
            speaker=names[people[turn]],
            identity=first + people[turn],
            emotion=emotion,
            valence=valence,
            low=bool(rng.random() < LOW_SHARE),
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
