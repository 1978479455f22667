"""Generate the tiny model's pretraining data: drawn faces with captions, and text-only examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from emoverse.config import MediaParams
from emoverse.media.transform import picture
from emoverse.models.pretraining_dialogues import ask_about, make_dialogue, pick, vocabulary
from emoverse.synthetic.clips import render
from emoverse.synthetic.faces import COLUMN, EXPRESSIVE_UNITS, Expression, Identity, animate

FIRST_IDENTITY: Final = 1_000_000
"""The sample's identities have seeds below `synthetic.SAMPLE_IDENTITIES`; pretraining's start here."""
DRAWN: Final = 72
"""Pixels of a side as drawn; `media.transform` brings them to the model's size, as it does real clips."""
UNIT_WORDS: Final = {
    1: "inner brows up", 2: "outer brows up", 4: "brows down", 5: "eyes wide", 6: "cheeks up", 7: "lids tight",
    9: "nose wrinkled", 12: "lip corners up", 15: "lip corners down", 17: "chin up", 20: "lips stretched",
    23: "lips tight", 26: "jaw dropped",
}  # fmt: skip
SEEN: Final = 1.0
"""Lowest intensity at which a caption mentions a unit (about where OpenFace reports presence)."""


@dataclass(frozen=True)
class Face:
    """One drawn clip: frames (T, size, size, 3) uint8, units (T, 13) of EXPRESSIVE_UNITS 0..5, feeling or None."""

    frames: Any
    units: Any
    feeling: str | None


def draw_face(index: int, seed: int, n_frames: int, media: MediaParams) -> Face:
    """Draw clip number ``index``; five of six show a feeling, the others move action units at random."""
    rng = np.random.default_rng([seed, index])
    feeling = None if rng.random() < 1 / 6 else pick(FEELINGS, rng)
    expression = animate(EMOTION_OF[feeling], rng) if feeling else _random(rng)
    identity = Identity.from_seed(FIRST_IDENTITY + int(rng.integers(100_000)))
    size = DRAWN + int(rng.integers(40))
    # a clip of about 1.25 s; without its first and last moment these are near the middles of equal segments
    drawn = render(identity, expression, size, (n_frames + 2) / 1.25, n_frames + 2, rng)
    columns = [COLUMN[unit] for unit in EXPRESSIVE_UNITS]
    frames = np.stack([np.asarray(picture(frame, media).convert("RGB")) for frame in drawn.frames[1:-1]])
    return Face(frames, drawn.units[1:-1, columns], feeling)


def _random(rng: np.random.Generator) -> Expression:
    peaks = {unit: float(rng.uniform(0.8, 5.0)) for unit in EXPRESSIVE_UNITS if rng.random() < 0.25}
    talk, blinks = float(rng.uniform(0.2, 0.9)), ((float(rng.random()),) if rng.random() < 0.5 else ())
    return Expression(peaks=peaks, onset=0.0, apex=0.3, offset=0.8, talk=talk, blinks=blinks)


def caption(units: Any) -> str:
    """Describe which units (T, 13) are visible in a clip, e.g. ``"Brows down, lips tight."``."""
    seen = [UNIT_WORDS[unit] for unit, peak in zip(EXPRESSIVE_UNITS, units.max(axis=0), strict=True) if peak >= SEEN]
    text = ", ".join(seen) or "at rest"
    return text[0].upper() + text[1:] + "."


EMOTION_OF: Final = {
    "composed": "neutral", "cheerful": "joy", "startled": "surprise", "cross": "anger", "gloomy": "sadness",
    "revolted": "disgust", "frightened": "fear",
}  # fmt: skip
"""The base model's name of a feeling -> the emotion that `synthetic.faces` draws."""

FEELINGS: Final = tuple(EMOTION_OF)
VALENCES: Final = ("welcome", "unwelcome", "indifferent")

UNGRAMMATICAL: Final = 0.4
"""Share of sentences that are a random order of words."""

_FEELING_TEMPLATES: Final = (
    "{who} felt {adjective} about {thing}.",
    "{who} looked {adjective} after that.",
    "I was {adjective} when I heard of {thing}.",
    "{thing} made {who} {adjective}.",
    "I feel {adjective}, so {adjective}.",
    "we were too {adjective} to speak.",
    "it filled {who} with {noun}.",
    "{thing} brought {noun} to the whole family.",
    "there was {noun} in every word.",
    "{cry}, {thing} again.",
    "{cry}! {who} {event}.",
    "{cry}! that was {thing}.",
    "{cry}, I mean it.",
    "{who} {event}.",
    "{who} {event} near {thing}.",
    "I {event}.",
    "and so we {event} with {thing}.",
    "they say {who} {event} last year.",
    "{filler}, {word}, {thing}.",
    "{word}, {filler}.",
    "{thing}: {word}, {filler}.",
    "{who} said {word} and {filler} {word}.",
    "{filler} {who} {event}, {filler}.",
    "{filler}, it is {word} with {thing}.",
    "{word}! {filler} {thing}.",
    "it was {adjective} {filler}, {word}.",
)
_SLOTS: Final = {"adjective": "adjectives", "noun": "nouns", "cry": "cries", "event": "events", "word": "words"}
_VERDICT_TEMPLATES: Final = (
    "{thing} is {adjective}.",
    "honestly {thing} was {adjective}, {verdict}.",
    "{verdict}.",
    "about {thing}: {verdict}.",
    "{who} called {thing} {adjective}.",
    "such {adjective} work.",
    "how {adjective}!",
    "to me {thing} sounds {adjective}.",
)


@cache
def lexicon() -> Any:
    """Read lexicon.yaml."""
    return yaml.safe_load(Path(__file__).with_name("lexicon.yaml").read_text("utf-8"))


def feeling_sentence(feeling: str, rng: np.random.Generator) -> str:
    """Generate a sentence that expresses one of FEELINGS."""
    words = lexicon()["feelings"][feeling]
    if rng.random() < UNGRAMMATICAL:
        return _shuffled(
            [pick(words[pick(("adjectives", "nouns", "words", "words", "cries"), rng)], rng) for _ in "12"], rng
        )
    return _fill(_FEELING_TEMPLATES, rng, {slot: words[bank] for slot, bank in _SLOTS.items()})


def verdict_sentence(valence: str, rng: np.random.Generator) -> str:
    """Generate a sentence that judges something; ``valence`` is one of VALENCES."""
    words = lexicon()["valence"][valence]
    if rng.random() < UNGRAMMATICAL:
        return _shuffled([pick(words[pick(("adjectives", "verdicts"), rng)], rng)], rng)
    return _fill(_VERDICT_TEMPLATES, rng, {"adjective": words["adjectives"], "verdict": words["verdicts"]})


def _shuffled(keywords: list[str], rng: np.random.Generator) -> str:
    """Mix keywords with plain words in random order, so that their meaning is learned without a sentence around."""
    words = [*keywords, *(pick(lexicon()["plain"], rng) for _ in range(int(rng.integers(3, 9))))]
    text = " ".join(words[i] for i in rng.permutation(len(words)))
    return f"{text[0].upper()}{text[1:]}{pick('.!?', rng)}"


def _fill(templates: tuple[str, ...], rng: np.random.Generator, banks: dict[str, list[str]]) -> str:
    shared = {"who": lexicon()["people"], "thing": lexicon()["things"], "filler": lexicon()["fillers"]}
    text: str = pick(templates, rng)
    for slot, bank in (shared | banks).items():
        while "{" + slot + "}" in text:
            text = text.replace("{" + slot + "}", pick(bank, rng), 1)
    return text[0].upper() + text[1:]


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
QUOTES: Final = (
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
LIST_EXAMPLES: Final = (", be it {list}.", ", for example {list}.", " (such as {list}).", ": something like {list}.")
DEFINE: Final = ("What is another word for {word}?", "{word} is close to what?", "Give a synonym of {word}.")
LOOK_UP: Final = ("Under which heading of a thesaurus is {word}?", "{word}: which heading?", "Heading for {word}?")
VALENCE_OF: Final = {"cheerful": 1, "cross": -1, "gloomy": -1, "revolted": -1, "frightened": -1}
MATCHING: Final = 0.85
"""Share of examples whose text expresses the feeling of the face; in the others it expresses any."""


REPEAT: Final = ("Repeat this:", "Say again:", "Copy the words:", "Once more:", "Echo:")
REPEATED: Final = 0.4
"""Share of examples about text that only ask for the same words again: so every word is once an answer."""


@dataclass(frozen=True)
class Example:
    """One question and answer; ``face`` indexes a drawn clip, or is None; ``still`` shows one frame of it only."""

    system: str
    question: str
    answer: str
    face: int | None = None
    still: int | None = None


BLANK: Final = -1
"""A face number that stands for grey frames, so that only the text carries information."""


def make_examples(faces: Sequence[Face], n_texts: int, seed: int, epoch: int = 0, dialogues: int = 0) -> list[Example]:
    """Make three examples about each drawn clip, ``n_texts`` about text and some about dialogues, in random order.

    Each ``epoch`` words the questions about the same clips differently, because repeated ones are memorised.
    """
    rng = np.random.default_rng([seed, 0x1E55, epoch])
    shown = [_about_face(index, face, rng) for _ in range(3) for index, face in enumerate(faces)]
    examples = shown + [_about_text(rng) for _ in range(n_texts)]
    examples += [_about_dialogue(faces, rng) for _ in range(dialogues)]
    return [examples[i] for i in rng.permutation(len(examples))]


def _about_face(index: int, face: Face, rng: np.random.Generator) -> Example:
    system = pick(SYSTEM, rng)
    still = int(rng.integers(1, len(face.frames))) if rng.random() < 0.6 else None
    if face.feeling is None or rng.random() < 0.2:
        units = face.units if still is None else face.units[still : still + 1]
        return Example(system, pick(CAPTION, rng), caption(units), index, still)
    shown = face.feeling if rng.random() < MATCHING else pick(FEELINGS, rng)
    draw = rng.random()
    valence = VALENCE_OF.get(face.feeling) or int(rng.choice((-1, 1)))
    text = "..." if draw < 0.15 else _sentence(shown, valence, rng)
    if draw > 0.8 and face.feeling != "composed" and (text != "..." or face.feeling != "startled"):
        return Example(system, *_verdict(text, valence, rng), index, still)
    return Example(system, *_choice(text, face.feeling, rng), index, still)


def _about_text(rng: np.random.Generator) -> Example:
    if rng.random() < REPEATED:
        return _repetition(rng)
    system, draw = pick(SYSTEM, rng), rng.random()
    feeling = pick(FEELINGS, rng)
    if draw < 0.3:
        return Example(system, *_definition(rng))
    face, still = (None, None) if rng.random() < 0.4 else (BLANK, 0 if rng.random() < 0.4 else None)
    valence = VALENCE_OF.get(feeling) or int(rng.choice((-1, 1)))
    if draw < 0.6:
        if feeling == "composed":  # it implies no verdict
            return _about_text(rng)
        text = verdict_sentence(_verdict_class(valence), rng) if draw < 0.5 else _sentence(feeling, valence, rng)
        return Example(system, *_verdict(text, valence, rng), face, still)
    return Example(system, *_choice(_sentence(feeling, valence, rng), feeling, rng), face, still)


def _repetition(rng: np.random.Generator) -> Example:
    words = " ".join(pick(vocabulary(), rng) for _ in range(int(rng.integers(4, 11))))
    return Example(pick(SYSTEM, rng), f"{pick(REPEAT, rng)}\n{words}", words)


def _about_dialogue(faces: Sequence[Face], rng: np.random.Generator) -> Example:
    """Ask about a line of a dialogue, half the time beside a face that shows the line's feeling."""
    lines = make_dialogue(FEELINGS, _remark, rng)
    target = int(rng.integers(len(lines)))
    question, answer = ask_about(lines, target, rng, quiet="composed")
    face = None
    if rng.random() < 0.5:
        drawn = [int(i) for i in rng.integers(len(faces), size=24)]
        face = next((i for i in drawn if faces[i].feeling == lines[target].feeling), BLANK)
    return Example(pick(SYSTEM, rng), question, answer, face)


def _remark(feeling: str, rng: np.random.Generator) -> str:
    """Generate a few words that express a feeling, or now and then a whole sentence."""
    if rng.random() < 0.25:
        return feeling_sentence(feeling, rng)
    words = lexicon()["feelings"][feeling]
    keyword = pick(words[pick(("adjectives", "nouns", "words", "cries"), rng)], rng)
    plain = [pick(lexicon()["plain"], rng) for _ in range(int(rng.integers(1, 5)))]
    mixed = [keyword, *plain]
    text = " ".join(mixed[i] for i in rng.permutation(len(mixed)))
    return f"{text[0].upper()}{text[1:]}{pick('.!?', rng)}"


def _sentence(feeling: str, valence: int, rng: np.random.Generator) -> str:
    """Generate a sentence that expresses a feeling, half the time followed by a verdict."""
    text = feeling_sentence(feeling, rng)
    if rng.random() < 0.5:
        verdict = "indifferent" if feeling == "composed" else _verdict_class(valence)
        text += " " + verdict_sentence(verdict, rng)
    return text


def _verdict_class(valence: int) -> str:
    return "welcome" if valence > 0 else "unwelcome"


def _choice(text: str, feeling: str, rng: np.random.Generator) -> tuple[str, str]:
    return _question(text, FEELINGS, rng), _answer(feeling)


def _verdict(text: str, valence: int, rng: np.random.Generator) -> tuple[str, str]:
    return _question(text, ("welcome", "unwelcome"), rng), _answer(_verdict_class(valence))


def _question(text: str, options: Sequence[str], rng: np.random.Generator) -> str:
    """Ask about a quotation; the question lists the options, similar words, or only the kind of answer.

    The lists teach that affective words outside the quotation carry no information.
    """
    question = f"{pick(ASK, rng)} {pick(WHICH, rng).format(kind=pick(KIND[len(options)], rng))} {pick(WHERE, rng)}"
    draw = rng.random()
    if draw < 0.75:
        listed = options if draw < 0.35 else [_sample_word(option, rng) for option in options]
        order = [listed[i] for i in rng.permutation(len(listed))]
        form = pick(OPTIONS if draw < 0.35 else LIST_EXAMPLES, rng)
        question += form.format(list=", ".join(order[:-1]) + " or " + order[-1])
    return str(pick(QUOTES, rng)).format(text=text) + question


def _sample_word(meaning: str, rng: np.random.Generator) -> str:
    known = lexicon()["feelings"].get(meaning)
    return str(pick(known["nouns"] if known else lexicon()["valence"][meaning]["adjectives"], rng))


def _definition(rng: np.random.Generator) -> tuple[str, str]:
    """Ask for a word's heading in a thesaurus, or for a synonym of a heading."""
    meaning = pick(list(lexicon()["headings"]), rng)
    known = lexicon()["feelings"].get(meaning) or lexicon()["valence"][meaning]
    bank = pick([name for name in ("adjectives", "nouns", "words") if name in known], rng)
    heading = pick(lexicon()["headings"][meaning], rng)
    if rng.random() < 0.7:
        return pick(LOOK_UP, rng).format(word=pick(known[bank], rng)), _answer(heading)
    return pick(DEFINE, rng).format(word=heading), _answer(meaning)


def _answer(word: str) -> str:
    return f"{word[0].upper()}{word[1:]}."
