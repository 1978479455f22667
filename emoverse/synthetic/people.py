"""Cast the people of the sample and plan who says what."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from emoverse.synthetic.clips import FPS
from emoverse.synthetic.expressions import EMOTIONS, LOW_SHARE
from emoverse.synthetic.phrases import TOPICS, make_text, valence_of

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

DIALOGUE_DECK: Final = (*EMOTIONS, *EMOTIONS, "neutral")
"""Emotions dealt in turn: neutral three times in fifteen, the other six twice."""


@dataclass(frozen=True)
class Line:
    """Hold one utterance and how its clip is drawn; times in seconds; `key` seeds the clip."""

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

    @property
    def end(self) -> float:
        """Return when the clip ends."""
        return self.start + self.n_frames / FPS


@dataclass(frozen=True)
class Conversation:
    """Hold a dialogue of a series: where it comes from and its lines."""

    number: int
    season: int
    episode: int
    lines: tuple[Line, ...]


def seeded_rng(seed: int, *names: object) -> np.random.Generator:
    """Return the random generator that belongs to a seed and a name."""
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, names)).encode())])


def cycle_shuffled(deck: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    """Yield the deck's cards without end, shuffled anew each time it is through."""
    while True:
        for index in rng.permutation(len(deck)):
            yield deck[int(index)]


def make_conversations(
    name: str,
    n_lines: int,
    at_least: int,
    seed: int,
    guests: bool = False,
    forced: dict[str, str] | None = None,
) -> list[Conversation]:
    """Plan conversations until there are `n_lines` lines and `at_least` conversations.

    With `guests` every third conversation is among identities that occur nowhere else. `forced` sets the emotion
    of the lines whose key (`{name}/dia{i}_utt{j}`) it names.
    """
    emotions = cycle_shuffled(DIALOGUE_DECK, seeded_rng(seed, name, "deck"))
    made: list[Conversation] = []
    total = 0
    while total < n_lines or len(made) < at_least:
        conversation = _conversation(name, len(made), seed, guests and len(made) % 3 == 1, emotions, forced or {})
        made.append(conversation)
        total += len(conversation.lines)
    return made


def _conversation(
    name: str, number: int, seed: int, guests: bool, emotions: Iterator[str], forced: dict[str, str]
) -> Conversation:
    rng = seeded_rng(seed, name, number)
    names, first = (GUESTS, FIRST_GUEST) if guests else (NAMES, 0)
    people = [int(i) for i in rng.choice(len(names), int(rng.integers(2, 4)), replace=False)]
    topic = TOPICS[int(rng.integers(len(TOPICS)))]
    size = SIZES[int(rng.choice(len(SIZES), p=[0.4, 0.3, 0.15, 0.15]))]
    clock = float(rng.integers(60_000, 1_300_000)) / 1000
    used: set[str] = set()
    lines = []
    utterance, turn = 0, int(rng.integers(len(people)))
    for index in range(int(rng.integers(3, 9))):
        if index >= 3 and rng.random() < 0.08:
            utterance += 1
        key = f"{name}/dia{number}_utt{utterance}"
        emotion = forced.get(key, next(emotions))
        valence = valence_of(emotion, rng)
        line = Line(
            key=key,
            number=utterance,
            speaker=names[people[turn]],
            identity=first + people[turn],
            emotion=emotion,
            valence=valence,
            low=bool(rng.random() < LOW_SHARE),
            text=make_text(emotion, valence, topic, used, rng),
            start=round(clock, 3),
            n_frames=int(rng.integers(12, 19)),
            size=size,
        )
        lines.append(line)
        clock = line.end + float(rng.uniform(0.05, 1.5))
        utterance += 1
        turn = (turn + int(rng.integers(1, len(people)))) % len(people)
    return Conversation(number, int(rng.integers(1, 5)), int(rng.integers(1, 13)), tuple(lines))
