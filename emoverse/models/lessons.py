"""Write the lessons of pretraining: what a face does, which feeling face and words share, what words mean.

They stand in for what InternVL2 has learned on the web before anybody fine-tunes it. Faces are other people's than
the sample's, sentences share no template with its transcripts, and no question is one of AMT's: the base model learns
to choose among words a question lists, and those words are never AMT's labels, which it meets in a dictionary only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from emoverse.models.pretraining_faces import Face, caption
from emoverse.models.pretraining_text import FEELINGS, feeling_sentence, lexicon, pick, verdict_sentence

SYSTEM: Final = ("You are a helpful assistant.", "You look at pictures and answer.", "Answer briefly.", "You know people well.")
CAPTION: Final = ("What does this face do?", "Caption the face.", "Which parts of the face move?", "Describe the picture.")
SAID: Final = ("They say: '{text}' ", 'Words: "{text}" ', "'{text}' ", 'The voice says "{text}" ', "Somebody said: '{text}' ")
ASK: Final = ("Tell me", "Choose", "Please name", "Say", "Please pick", "Decide", "Work out", "Find")
WHAT: Final = ("which mood", "the feeling", "which state of mind", "the mood", "what feeling", "which word")
WHERE: Final = ("the clip has", "is in the clip", "the picture shows", "this person has", "fits the person", "is meant")
OPTIONS: Final = (": {list}.", ", one of {list}.", " among {list}.", " ({list}).")
DEFINE: Final = ("What is another word for {word}?", "{word} is close to what?", "Give a synonym of {word}.")
VALENCE: Final = {"cheerful": 1, "cross": -1, "gloomy": -1, "revolted": -1, "frightened": -1}
MATCHING: Final = 0.7
"""Share of lessons in which the words carry the feeling of the face; in the others they carry any."""


@dataclass(frozen=True)
class Lesson:
    """One question and answer; ``face`` indexes a drawn clip, or is None; ``still`` shows one frame of it only."""

    system: str
    question: str
    answer: str
    face: int | None = None
    still: int | None = None


def write_lessons(faces: Sequence[Face], n_faces: int, n_words: int, seed: int) -> list[Lesson]:
    """Write ``n_faces`` lessons about drawn clips and ``n_words`` about words alone, in an order drawn from the seed."""
    rng = np.random.default_rng([seed, 0x1E55])
    shown = [_about_face(i % len(faces), faces[i % len(faces)], rng) for i in range(n_faces)]
    lessons = shown + [_about_words(rng) for _ in range(n_words)]
    return [lessons[i] for i in rng.permutation(len(lessons))]


def _about_face(index: int, face: Face, rng: np.random.Generator) -> Lesson:
    system = pick(SYSTEM, rng)
    still = int(rng.integers(1, len(face.frames))) if rng.random() < 0.4 else None
    if face.feeling is None or rng.random() < 0.15:
        units = face.units if still is None else face.units[still : still + 1]
        return Lesson(system, pick(CAPTION, rng), caption(units), index, still)
    said = face.feeling if rng.random() < MATCHING else pick(FEELINGS, rng)
    draw = rng.random()
    valence = VALENCE.get(face.feeling) or int(rng.choice((-1, 1)))
    text = "..." if draw < 0.2 else _words(said, valence, rng)
    if draw > 0.7 and face.feeling != "composed" and (text != "..." or face.feeling != "startled"):
        return Lesson(system, *_verdict(text, valence, rng), index, still)
    return Lesson(system, *_choice(text, face.feeling, rng), index, still)


def _about_words(rng: np.random.Generator) -> Lesson:
    system, draw = pick(SYSTEM, rng), rng.random()
    feeling = pick(FEELINGS, rng)
    if draw < 0.2:
        return Lesson(system, *_definition(rng))
    valence = VALENCE.get(feeling) or int(rng.choice((-1, 1)))
    if draw < 0.5:
        text = verdict_sentence(_judged(valence), rng) if draw < 0.4 else _words(feeling, valence, rng)
        return Lesson(system, *_verdict(text, valence, rng)) if feeling != "composed" else _about_words(rng)
    return Lesson(system, *_choice(_words(feeling, valence, rng), feeling, rng))


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
    """Ask which of seven words fits; each feeling goes by one of its names."""
    names = {each: pick(lexicon()["names"][each], rng) for each in FEELINGS}
    return _question(text, list(names.values()), rng), _answer(names[feeling])


def _verdict(text: str, valence: int, rng: np.random.Generator) -> tuple[str, str]:
    pair = pick(lexicon()["verdicts"], rng)
    return _question(text, list(pair), rng), _answer(pair[0] if valence > 0 else pair[1])


def _question(text: str, options: list[str], rng: np.random.Generator) -> str:
    order = [options[i] for i in rng.permutation(len(options))]
    listed = ", ".join(order[:-1]) + " or " + order[-1]
    asked = f"{pick(ASK, rng)} {pick(WHAT, rng)} {pick(WHERE, rng)}{pick(OPTIONS, rng).format(list=listed)}"
    return pick(SAID, rng).format(text=text) + asked


def _definition(rng: np.random.Generator) -> tuple[str, str]:
    known = lexicon()["synonyms"]
    meaning = pick(list(known), rng)
    names = lexicon()["names"].get(meaning) or [pair[meaning != "welcome"] for pair in lexicon()["verdicts"]]
    word, other = pick(known[meaning], rng), pick(names, rng)
    if rng.random() < 0.5:
        word, other = other, word
    return pick(DEFINE, rng).format(word=word), _answer(other)


def _answer(word: str) -> str:
    return word[0].upper() + word[1:] + "."
