"""Write the lessons of pretraining: what a face does, which feeling face and words share, what words mean.

They stand in for what InternVL2 has learned on the web before anybody fine-tunes it. Faces are other people's than
the sample's, sentences share no template with its transcripts, and no question is one of AMT's: the base model
has its own names for feelings and verdicts, and meets AMT's labels in a dictionary only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from emoverse.models.pretraining_faces import Face, caption
from emoverse.models.pretraining_text import FEELINGS, feeling_sentence, lexicon, pick, verdict_sentence

SYSTEM: Final = (
    "You are a helpful assistant.",
    "You look at pictures and answer.",
    "Answer briefly.",
    "You know people well.",
)
CAPTION: Final = (
    "What does this face do?",
    "Caption the face.",
    "Which parts of the face move?",
    "Describe the picture.",
)
SAID: Final = (
    "They say: '{text}' ",
    'Words: "{text}" ',
    "'{text}' ",
    'The voice says "{text}" ',
    "Somebody said: '{text}' ",
)
ASK: Final = ("Tell me", "Choose", "Please name", "Say", "Please pick", "Decide", "Work out", "Find")
WHICH: Final = ("which {kind}", "the {kind}", "what {kind}", "which {kind} label", "the right {kind}")
KIND: Final = {7: ("mood", "feeling", "state of mind", "emotion"), 2: ("verdict", "attitude", "opinion", "sentiment")}
WHERE: Final = ("the clip has", "is in the clip", "the picture shows", "this person has", "fits the person", "is meant")
OPTIONS: Final = (": {list}.", " - {list}.", ", one of {list}.", " among {list}.", " ({list}).")
EXAMPLES: Final = (", be it {list}.", ", for example {list}.", " (such as {list}).", ": something like {list}.")
DEFINE: Final = ("What is another word for {word}?", "{word} is close to what?", "Give a synonym of {word}.")
LOOK_UP: Final = ("Under which heading of a thesaurus is {word}?", "{word}: which heading?", "Heading for {word}?")
VALENCE: Final = {"cheerful": 1, "cross": -1, "gloomy": -1, "revolted": -1, "frightened": -1}
MATCHING: Final = 0.85
"""Share of lessons in which the words carry the feeling of the face; in the others they carry any."""


@dataclass(frozen=True)
class Lesson:
    """One question and answer; ``face`` indexes a drawn clip, or is None; ``still`` shows one frame of it only."""

    system: str
    question: str
    answer: str
    face: int | None = None
    still: int | None = None


BLANK: Final = -1
"""A face's number that stands for grey frames: then only the words can tell."""


def write_lessons(faces: Sequence[Face], n_words: int, seed: int, epoch: int = 0) -> list[Lesson]:
    """Write three lessons about each drawn clip and ``n_words`` about words alone, in an order drawn from the seed.

    Another ``epoch`` asks about the same clips anew: new words cost nothing and repeated ones are learned by heart.
    """
    rng = np.random.default_rng([seed, 0x1E55, epoch])
    shown = [_about_face(index, face, rng) for _ in range(3) for index, face in enumerate(faces)]
    lessons = shown + [_about_words(rng) for _ in range(n_words)]
    return [lessons[i] for i in rng.permutation(len(lessons))]


def _about_face(index: int, face: Face, rng: np.random.Generator) -> Lesson:
    system = pick(SYSTEM, rng)
    still = int(rng.integers(1, len(face.frames))) if rng.random() < 0.6 else None
    if face.feeling is None or rng.random() < 0.05:
        units = face.units if still is None else face.units[still : still + 1]
        return Lesson(system, pick(CAPTION, rng), caption(units), index, still)
    said = face.feeling if rng.random() < MATCHING else pick(FEELINGS, rng)
    draw = rng.random()
    valence = VALENCE.get(face.feeling) or int(rng.choice((-1, 1)))
    text = "..." if draw < 0.15 else _words(said, valence, rng)
    if draw > 0.8 and face.feeling != "composed" and (text != "..." or face.feeling != "startled"):
        return Lesson(system, *_verdict(text, valence, rng), index, still)
    return Lesson(system, *_choice(text, face.feeling, rng), index, still)


def _about_words(rng: np.random.Generator) -> Lesson:
    system, draw = pick(SYSTEM, rng), rng.random()
    feeling = pick(FEELINGS, rng)
    if draw < 0.3:
        return Lesson(system, *_definition(rng))
    face, still = (None, None) if rng.random() < 0.4 else (BLANK, 0 if rng.random() < 0.4 else None)
    valence = VALENCE.get(feeling) or int(rng.choice((-1, 1)))
    if draw < 0.6:
        if feeling == "composed":  # no verdict to tell
            return _about_words(rng)
        text = verdict_sentence(_judged(valence), rng) if draw < 0.5 else _words(feeling, valence, rng)
        return Lesson(system, *_verdict(text, valence, rng), face, still)
    return Lesson(system, *_choice(_words(feeling, valence, rng), feeling, rng), face, still)


def _words(feeling: str, valence: int, rng: np.random.Generator) -> str:
    """Say something that carries a feeling, half the time with a verdict behind it."""
    text = feeling_sentence(feeling, rng)
    if rng.random() < 0.5:
        judged = "indifferent" if feeling == "composed" else _judged(valence)
        text += " " + verdict_sentence(judged, rng)
    return text


def _judged(valence: int) -> str:
    return "welcome" if valence > 0 else "unwelcome"


def _choice(text: str, feeling: str, rng: np.random.Generator) -> tuple[str, str]:
    return _question(text, FEELINGS, rng), _answer(feeling)


def _verdict(text: str, valence: int, rng: np.random.Generator) -> tuple[str, str]:
    return _question(text, ("welcome", "unwelcome"), rng), _answer(_judged(valence))


def _question(text: str, options: Sequence[str], rng: np.random.Generator) -> str:
    """Ask about words; the question lists the options or other words of the kind, in any order, or only the kind.

    Affective words outside the quotation are no clue: a list of them is there to teach that.
    """
    asked = f"{pick(ASK, rng)} {pick(WHICH, rng).format(kind=pick(KIND[len(options)], rng))} {pick(WHERE, rng)}"
    draw = rng.random()
    if draw < 0.75:
        listed = options if draw < 0.35 else [_example(option, rng) for option in options]
        order = [listed[i] for i in rng.permutation(len(listed))]
        form = pick(OPTIONS if draw < 0.35 else EXAMPLES, rng)
        asked += form.format(list=", ".join(order[:-1]) + " or " + order[-1])
    return str(pick(SAID, rng)).format(text=text) + asked


def _example(meaning: str, rng: np.random.Generator) -> str:
    known = lexicon()["feelings"].get(meaning)
    return str(pick(known["nouns"] if known else lexicon()["valence"][meaning]["adjectives"], rng))


def _definition(rng: np.random.Generator) -> tuple[str, str]:
    """Look a word up: in a thesaurus it stands under a heading, and it is close to one of the base model's names."""
    meaning = pick(list(lexicon()["headings"]), rng)
    known = lexicon()["feelings"].get(meaning) or lexicon()["valence"][meaning]
    bank = pick([name for name in ("adjectives", "nouns", "words") if name in known], rng)
    heading = pick(lexicon()["headings"][meaning], rng)
    if rng.random() < 0.7:
        return pick(LOOK_UP, rng).format(word=pick(known[bank], rng)), _answer(heading)
    return pick(DEFINE, rng).format(word=heading), _answer(meaning)


def _answer(word: str) -> str:
    return f"{word[0].upper()}{word[1:]}."
