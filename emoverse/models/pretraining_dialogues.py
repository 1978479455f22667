"""Generate dialogues for the tiny model's pretraining: numbered lines, and questions whose answer is a line's number.

A large model can look up who said what and copy a number out of a list; a tiny one has to learn it somewhere. Speakers,
words, labels and questions are not those of a corpus, except that first names are everybody's.
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
            answers = _pick(far if far and rng.random() < FAR else latest, rng)
            text = f"{lines[answers].speaker}, {text[0].lower()}{text[1:]}"
        lines.append(Spoken(speaker, feeling, text, answers))
        turn = (turn + int(rng.integers(1, len(names)))) % len(names)
    return lines


def ask_about(lines: Sequence[Spoken], target: int, rng: np.random.Generator, quiet: str) -> tuple[str, str]:
    """Ask about line ``target`` (from 0): what set it off, or, more easily, who said something where.

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
    written = [_written(number, line, labelled) for number, line in enumerate(lines, 1)]
    head, text = _pick(_HEADS, rng), "\n".join(written)
    if draw < 0.15:
        name = lines[int(rng.integers(len(lines)))].speaker
        last = max(place for place, line in enumerate(lines, 1) if line.speaker == name)
        return f"{head}{text}\n{_pick(_LAST_OF, rng).format(name=name)}", str(last)
    if draw < 0.25:
        return f"{head}{text}\n{_pick(_SPEAKER, rng).format(number=target + 1)}", lines[target].speaker
    parts = [head + text] if rng.random() < 0.7 else []
    parts.append(_pick(_EARLIER, rng) + "\n".join(written[:target]))
    parts.append(f"{_pick(_THIS, rng)}{written[target]}\n{_closing(lines, target, rng)}")
    return "".join(parts).strip(), _origin(lines[target], target, "" if labelled else quiet)


def _closing(lines: Sequence[Spoken], target: int, rng: np.random.Generator) -> str:
    """Return the question itself; mostly with an example of an answer, whose numbers mean nothing, and idle words."""
    if rng.random() < 0.3:
        return str(_pick(_ORIGIN, rng).format(number=target + 1))
    numbers = rng.integers(1, 9, size=2)
    example = f"{numbers[0]}_{lines[int(rng.integers(len(lines)))].feeling},{numbers[1]}"
    idle = " ".join(_pick(vocabulary(), rng) for _ in range(int(rng.integers(0, 16))))
    parts = [_pick(_FORM, rng).format(example=example), idle, _pick(_INDICES, rng)]
    return "\n".join(part for part in parts if part)


def _written(number: int, line: Spoken, labelled: bool) -> str:
    return (
        f"{number}_{line.feeling}. {line.speaker}: {line.text}"
        if labelled
        else f"{number}. {line.speaker}: {line.text}"
    )


def _origin(line: Spoken, target: int, quiet: str) -> str:
    if line.feeling == quiet:
        return ""
    return f"{target + 1}_{line.feeling},{(target if line.answers is None else line.answers) + 1}"


def _pick(bank: Sequence[Any], rng: np.random.Generator) -> Any:
    return bank[int(rng.integers(len(bank)))]
