"""Put other people's words into a prompt so that they stay words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from emoverse.corpora.base import Utterance

# Every placeholder and special token of InternVL2, its language models and ms-swift begins with "<" and a letter,
# "/" or "|" (InternLM2 also knows [UNUSED_TOKEN_n]): one space after the bracket and none of them is left.
_OPENING: Final = re.compile(r"<(?=[/|!A-Za-z_])|\[(?=UNUSED_TOKEN)")
# A line break would let a transcript write its own "Target utterance:" line.
_BREAK: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


def neutralise(text: str) -> str:
    """Return the text unable to add media, roles or lines to a prompt; ordinary text is returned unchanged."""
    if text.isprintable() and "<" not in text and "[" not in text:  # nearly all transcripts; no break is printable
        return text
    return _OPENING.sub(lambda found: found.group() + " ", _BREAK.sub(" ", text))


MUTED: Final = "..."
# Greedy, as a transcript may hold quotes of its own.
_SPOKEN: Final = re.compile(r"(The person says: (['\"])).*(\2 <[a-z]+> )", re.DOTALL)


def mute(prompt: str, words: str = MUTED) -> str | None:
    """Return the prompt with other words, ``...``, for the person's; None for a prompt that quotes none."""
    found = _SPOKEN.search(prompt)
    return f"{prompt[: found.end(1)]}{words}{prompt[found.start(3) :]}" if found else None


Numbers = NDArray[np.float64]
Gold = Mapping[str, Any]
"""What a test file's ``gold`` holds: ``answer`` (str), ``answers`` (every allowed answer in a fixed order, or None for
an open task), ``group`` (the dialogue, added by ``amt``: records of one group are not independent), and its own keys.
"""
UNPARSABLE = "unparsable"
"""The extra predicted class of replies that no parser can read; they count as wrong and are never dropped."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The choices of ``params.yaml`` that change a question or its answer."""

    zero_sentiment: Literal["drop", "positive", "own-class"] = "drop"


# Reason, Scene and Question are named tuples: one is made for every row, and a frozen dataclass takes thrice as long.
class Reason(NamedTuple):
    """Why the person feels so, in words, and who says it; ``clues`` are the observations the text builds on."""

    text: str
    provider: str
    clues: tuple[str, ...] = ()


class Scene(NamedTuple):
    """All that a task may look at to make a question.

    ``dialogue`` holds the utterance and its neighbours in order of position. ``units`` maps ``"AU01"`` to its
    intensity (0..5) at the peak frame, None where nobody measured. ``reason`` is for ERI only. ``verbatim`` asks for
    the transcript as it stands, for the published form; otherwise it is neutralised.
    """

    utterance: Utterance
    dialogue: Sequence[Utterance]
    units: Mapping[str, float] | None = None
    reason: Reason | None = None
    options: Options = Options()
    verbatim: bool = False

    def words(self, utterance: Utterance) -> str:
        """Return an utterance's words as they go into a prompt."""
        return utterance.text if self.verbatim else neutralise(utterance.text)


class Question(NamedTuple):
    """A question without its media placeholder, its right answer, and what scoring needs.

    ``gold`` may be that of other questions too: nobody changes it. ``trained`` is False for a record that belongs to a
    test file only (sentiment 0 under ``drop``). ``extra`` holds more string keys of the row, as ERI's ``provider``.
    """

    text: str
    answer: str
    gold: Gold
    trained: bool = True
    extra: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class LeftOut:
    """Why an utterance gives no question: a short stable code that is counted, and what would change it.

    ``tolerated``: a task that loses all its rows this way is reported and not an error.
    """

    reason: str
    remedy: str = ""
    tolerated: bool = False


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: ``matrix[i, j]`` counts gold ``rows[i]`` predicted as ``columns[j]``, the last unparsable."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    matrix: Numbers


class Scorer(Protocol):
    """Scores replies to a fixed list of n gold records, by additive counts of k columns."""

    @property
    def size(self) -> int:
        """Return n, the number of records."""

    def counts(self, replies: Sequence[str]) -> Numbers:
        """Return an (n, k) array of additive counts; raise ValueError when there are not n replies."""

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Turn summed counts of shape (..., k) into named scores of shape (...); 0/0 is 0."""

    def confusion(self, totals: Numbers) -> Confusion | None:
        """Return the confusion matrix of summed counts of shape (k,), None for a task without one."""


class Task(Protocol):
    """One task. ``name`` is its word in params.yaml, ``headline`` the score that stands for it."""

    name: str
    title: str
    headline: str
    media: Literal["clip", "peak"]  # what the question is about: the moving clip, or its one still
    shows: Literal["utterance", "dialogue"]  # whose words and labels the prompt or the answer reveals

    def ask(self, scene: Scene) -> Question | LeftOut:
        """Make the question about ``scene.utterance``, or say why there is none."""

    def gold(self, answer: str, *, corpus: str, query: str = "") -> dict[str, Any]:
        """Return the gold of a published record, which has only its answer and its query."""

    def parse(self, reply: str, gold: Gold) -> Any | None:
        """Read a reply (a label, a set of pairs ...); None when it cannot be read."""

    def scorer(self, golds: Sequence[Gold]) -> Scorer:
        """Return the scorer of these gold records (n >= 1)."""

    def baselines(self, golds: Sequence[Gold], trained: Counter[str]) -> dict[str, list[str]]:
        """Return named trivial predictors' n replies; ``trained`` counts the answers of the train rows."""


def ratio(above: Numbers, below: Numbers) -> Numbers:
    """Divide, taking x/0 as 0."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)


def f1(hits: Numbers, predicted: Numbers, gold: Numbers) -> Numbers:
    """Return the harmonic mean of precision and recall: 2 hits / (predicted + gold)."""
    return ratio(2.0 * hits, predicted + gold)


def majority(golds: Sequence[Gold], trained: Counter[str]) -> str:
    """Return the commonest train answer (the commonest gold when nothing was trained); ties by code point."""
    seen = trained or Counter(str(gold["answer"]) for gold in golds)
    return min(seen, key=lambda answer: (-seen[answer], answer))


def expect(replies: Sequence[str], size: int) -> None:
    """Raise ValueError unless there is one reply per record."""
    if len(replies) != size:
        raise ValueError(f"{len(replies)} replies for {size} records")
