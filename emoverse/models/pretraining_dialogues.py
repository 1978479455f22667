"""Generate dialogues for the tiny model's pretraining: numbered lines, and questions whose answer is a line's number.

A large model can look up who said what and copy a number out of a list; the tiny one learns it from these. Words and
questions are not those of a corpus, and most labels are arbitrary words. First names are common ones, those of the
sample among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

LENGTHS: Final = (3, 7)
"""A dialogue's lines: from, up to but not including."""
ADDRESSED: Final = 0.6
"""Share of lines that begin with the name of the person whom they answer."""
FAR: Final = 0.7
"""Share of these that answer a line before the previous one, where another person said one."""
INVENTED: Final = 0.7
"""Share of labelled dialogues whose labels are any words."""
GAPS: Final = 0.1
"""Share of lines before which a number is left out."""
LISTS: Final = 0.25
"""Share of questions about all lines of a dialogue."""
_NAMES: Final = Path(__file__).with_name("names.txt")
_WORDS: Final = Path(__file__).with_name("words.txt")
_ORIGIN: Final = (
    "Where does {number} come from?",
    "Trace line {number} back.",
    "What set off line {number}? Give number, feeling and source.",
    "Number, feeling, source:",
    "Source of the feeling in {number}:",
    "Which line is behind this one?",
)
_LAST_OF: Final = ("Last line of {name}?", "Where did {name} speak last?", "Latest number of {name}:")
_SPEAKER: Final = ("Who speaks in {number}?", "Name the speaker of line {number}.", "Line {number} is by whom?")
_ADDRESSED: Final = (
    "Whom does line {number} call by name?",
    "Who is called in {number}?",
    "Name called in line {number}:",
)
_NO_NAME: Final = "nobody"
_EVERY_SOURCE: Final = ("Sources of all lines:", "Trace every line back:", "Each line, its feeling and its source:")
_EVERY_SPEAKER: Final = ("Speakers of all lines:", "Who speaks where?", "Each line's speaker:")
_EVERY_LAST: Final = ("Last line of everybody:", "Where did each one speak last?", "Latest numbers:")
_HEADS: Final = ("Transcript:", "A talk:\n", "Minutes:\n", "Chat:", "Lines:\n", "")
_EARLIER: Final = ("\nSo far:", "\nEarlier:\n", "\nBefore that:", "\nPast lines:\n")
_THIS: Final = ("\nNow:", "\nThis line:", "\nTarget line:", "\nThe target:", "\nIn question:")
_FORM: Final = (
    'Write it like "{example}".',
    'An answer such as "{example}" gives number, feeling and source,\nseveral are divided by a semicolon.',
    'For instance "{example}" says where a feeling comes from.',
    "The form is {example} and nothing else.",
)
_INDICES: Final = (
    "Indices of the target:",
    "The indices are:",
    "Number, feeling and source of the target line:",
    "So:",
)

Sentence = Callable[[str, np.random.Generator], str]


@dataclass(frozen=True)
class Spoken:
    """One line: who says it, with which feeling, in which words, and the line that it answers (from 0), if any."""

    speaker: str
    feeling: str
    text: str
    answers: int | None


@cache
def first_names() -> list[str]:
    """Read the list of first names, which a large model's tokenizer would contain."""
    return _listed(_NAMES)


@cache
def vocabulary() -> list[str]:
    """Read the lists of common English words and of first names."""
    return [*_listed(_WORDS), *first_names()]


def _listed(path: Path) -> list[str]:
    lines = path.read_text("utf-8").splitlines()
    return [word for line in lines if not line.startswith("#") for word in line.split()]


def make_dialogue(feelings: Sequence[str], sentence: Sentence, rng: np.random.Generator) -> list[Spoken]:
    """Draw a dialogue; ``sentence(feeling, rng)`` words a line."""
    names = [first_names()[int(i)] for i in rng.choice(len(first_names()), int(rng.integers(3, 5)), replace=False)]
    lines: list[Spoken] = []
    turn = 0
    for _ in range(int(rng.integers(*LENGTHS))):
        feeling, speaker = feelings[int(rng.integers(len(feelings)))], names[turn]
        text, answers = sentence(feeling, rng), None
        latest = sorted({line.speaker: place for place, line in enumerate(lines) if line.speaker != speaker}.values())
        if latest and rng.random() < ADDRESSED:
            far = [place for place in latest if place < len(lines) - 1]
            answers = pick(far if far and rng.random() < FAR else latest, rng)
            text = f"{lines[answers].speaker}, {text[0].lower()}{text[1:]}"
        lines.append(Spoken(speaker, feeling, text, answers))
        turn = (turn + int(rng.integers(1, len(names)))) % len(names)
    return lines


def ask_about(lines: Sequence[Spoken], target: int, rng: np.random.Generator, quiet: str) -> tuple[str, str]:
    """Ask about line ``target`` (from 0): what set it off, or who said something where.

    Most of what surrounds the answer is drawn from the whole vocabulary (labels, headings, instructions), so that the
    answer has to be looked up and copied. One question of four is about all lines at once: an answer of many numbers
    teaches more than one number does.

    Args:
        lines: The dialogue.
        target: The line in question.
        rng: What decides the wording.
        quiet: The feeling that nothing sets off; where feelings are not given, its answer is empty.

    Returns:
        The question and the answer.
    """
    draw = rng.random()
    labelled = rng.random() < 0.6
    talk = _number(lines, rng, invented=labelled and rng.random() < INVENTED)
    written = [line.written(labelled) for line in talk]
    head, text = _idle(rng, 25) + _heading(_HEADS, rng), "\n".join(written)
    if rng.random() < LISTS:
        question, answer = _about_all(talk, draw, rng)
        return f"{head}{text}\n{question}", answer
    line = talk[target]
    if draw < 0.12:
        name = talk[int(rng.integers(len(talk)))].speaker
        last = max(spoken.number for spoken in talk if spoken.speaker == name)
        return f"{head}{text}\n{pick(_LAST_OF, rng).format(name=name)}", str(last)
    if draw < 0.2:
        return f"{head}{text}\n{pick(_SPEAKER, rng).format(number=line.number)}", line.speaker
    if draw < 0.3:
        return f"{head}{text}\n{pick(_ADDRESSED, rng).format(number=line.number)}", line.called
    parts = [head + text] if rng.random() < 0.7 else []
    parts.append(_heading(_EARLIER, rng) + "\n".join(written[:target]))
    parts.append(f"{_heading(_THIS, rng)}{written[target]}\n{_closing(talk, line, rng)}")
    silent = not labelled and lines[target].feeling == quiet
    return "".join(parts).strip(), "" if silent else line.origin


@dataclass(frozen=True)
class _Numbered:
    """A line as it is written: its number, label and speaker, whom it calls by name, and the number of its source."""

    number: int
    label: str
    speaker: str
    text: str
    called: str
    source: int

    @property
    def origin(self) -> str:
        return f"{self.number}_{self.label},{self.source}"

    def written(self, labelled: bool) -> str:
        label = f"_{self.label}" if labelled else ""
        return f"{self.number}{label}. {self.speaker}: {self.text}"


def _number(lines: Sequence[Spoken], rng: np.random.Generator, *, invented: bool) -> list[_Numbered]:
    """Give each line a number, with gaps, and a label: its feeling, or any word (``invented``)."""
    numbers = np.cumsum(1 + (rng.random(len(lines)) < GAPS))
    talk = []
    for place, line in enumerate(lines):
        label = str(pick(vocabulary(), rng)).lower() if invented else line.feeling
        called = _NO_NAME if line.answers is None else lines[line.answers].speaker
        source = place if line.answers is None else line.answers
        talk.append(_Numbered(int(numbers[place]), label, line.speaker, line.text, called, int(numbers[source])))
    return talk


def _heading(bank: Sequence[str], rng: np.random.Generator) -> str:
    """Return a heading of the bank, or as often one of any words."""
    if rng.random() < 0.5:
        return str(pick(bank, rng))
    words = " ".join(str(pick(vocabulary(), rng)) for _ in range(int(rng.integers(1, 4))))
    colon = pick((":", ":\n"), rng)
    return f"\n{words.capitalize()}{colon}"


def _idle(rng: np.random.Generator, most: int) -> str:
    """Return half the time nothing, else a line of up to ``most`` words that mean nothing."""
    count = int(rng.integers(2 * most)) - most
    return " ".join(str(pick(vocabulary(), rng)) for _ in range(count)) + "\n" if count > 0 else ""


def _about_all(talk: Sequence[_Numbered], draw: float, rng: np.random.Generator) -> tuple[str, str]:
    """Return a question about all lines and its answer; ``draw`` (0..1) chooses the kind."""
    if draw < 0.5:
        return pick(_EVERY_SOURCE, rng), ";".join(line.origin for line in talk)
    if draw < 0.75:
        return pick(_EVERY_SPEAKER, rng), "; ".join(f"{line.speaker} {line.number}" for line in talk)
    latest = {line.speaker: line.number for line in talk}
    names = [list(latest)[int(i)] for i in rng.permutation(len(latest))]
    return pick(_EVERY_LAST, rng), "; ".join(f"{name} {latest[name]}" for name in names)


def _closing(talk: Sequence[_Numbered], line: _Numbered, rng: np.random.Generator) -> str:
    """Return the question itself; mostly with an example of an answer, whose numbers mean nothing, and idle words."""
    if rng.random() < 0.2:
        return str(pick(_ORIGIN, rng).format(number=line.number))
    numbers = rng.integers(1, 9, size=2)
    example = f"{numbers[0]}_{pick(talk, rng).label},{numbers[1]}"
    return f"{_idle(rng, 20)}{pick(_FORM, rng).format(example=example)}\n{_idle(rng, 40)}{pick(_INDICES, rng)}"


def pick(bank: Any, rng: np.random.Generator) -> Any:
    """Pick one item of a sequence."""
    return bank[int(rng.integers(len(bank)))]
