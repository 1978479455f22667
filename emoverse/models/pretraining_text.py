"""Invent sentences that carry a feeling or a verdict, so that the tiny base model has read some English.

InternVL2, for which it stands in, was trained on the web. These sentences share everyday affective words with the
sample's transcripts, as any English does, but no sentence and no template: `tests/unit/test_models_text.py` holds
generated sentences against generated transcripts.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

EMOTION_OF: Final = {
    "composed": "neutral", "cheerful": "joy", "startled": "surprise", "cross": "anger", "gloomy": "sadness",
    "revolted": "disgust", "frightened": "fear",
}  # fmt: skip
"""The base model's name of a feeling -> the emotion `synthetic.emotions` performs."""

FEELINGS: Final = tuple(EMOTION_OF)
VALENCES: Final = ("welcome", "unwelcome", "indifferent")

SOUP: Final = 0.4
"""Share of sentences without grammar."""

_FELT: Final = (
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
_JUDGED: Final = (
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
    """Invent a sentence that carries one of FEELINGS."""
    words = lexicon()["feelings"][feeling]
    if rng.random() < SOUP:
        return _soup(
            [pick(words[pick(("adjectives", "nouns", "words", "words", "cries"), rng)], rng) for _ in "12"], rng
        )
    return _fill(_FELT, rng, {slot: words[bank] for slot, bank in _SLOTS.items()})


def verdict_sentence(valence: str, rng: np.random.Generator) -> str:
    """Invent a sentence that judges something; ``valence`` is one of VALENCES."""
    words = lexicon()["valence"][valence]
    if rng.random() < SOUP:
        return _soup([pick(words[pick(("adjectives", "verdicts"), rng)], rng)], rng)
    return _fill(_JUDGED, rng, {"adjective": words["adjectives"], "verdict": words["verdicts"]})


def _soup(telling: list[str], rng: np.random.Generator) -> str:
    """Stir telling words into plain ones: what they mean must not hang on the sentence they stand in."""
    words = [*telling, *(pick(lexicon()["plain"], rng) for _ in range(int(rng.integers(3, 9))))]
    text = " ".join(words[i] for i in rng.permutation(len(words)))
    return f"{text[0].upper()}{text[1:]}{pick('.!?', rng)}"


def _fill(templates: tuple[str, ...], rng: np.random.Generator, banks: dict[str, list[str]]) -> str:
    shared = {"who": lexicon()["people"], "thing": lexicon()["things"], "filler": lexicon()["fillers"]}
    text: str = pick(templates, rng)
    for slot, bank in (shared | banks).items():
        while "{" + slot + "}" in text:
            text = text.replace("{" + slot + "}", pick(bank, rng), 1)
    return text[0].upper() + text[1:]


def pick(bank: Any, rng: np.random.Generator) -> Any:
    """Pick one item of a sequence."""
    return bank[int(rng.integers(len(bank)))]
