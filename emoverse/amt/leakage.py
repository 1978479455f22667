"""Find train and validation utterances that are also in a test set, of the same corpus or another.

Three signs, measured on the real files against ECF's own mapping to MELD (2535 true pairs of ECF train and MELD test):

* ``clip``: the row's clip is the test row's clip (ECF mapped to MELD).
* ``time``: same episode, spans that share ``MIN_IOU`` of their union. Finds 2480 of the 2535; a sign that needs less
  overlap finds 25 more and three times as many neighbours, because some of MELD's spans last minutes.
* ``text``: same words and same speaker (where both name one), at least ``MIN_WORDS`` of them: "Okay." is no leak. With
  six words 589 of 591 pairs are true, with four 830 of 901.
* ``near``: the words are nearly the same, see ``near``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from emoverse.amt.tables import CorpusTable

MIN_IOU: Final = 0.3
MIN_WORDS: Final = 6
_COLUMNS: Final = ("utterance_id", "clip", "speaker", "text", "episode", "start", "end")


@dataclass(frozen=True, order=True)
class Leak:
    """A train (or validation) utterance that shows a test utterance, and by which sign it was found."""

    utterance_id: str
    test_id: str
    sign: str


@dataclass(frozen=True)
class Side:
    """Some utterances of one corpus in columns; ``start`` and ``end`` are NaN where unknown."""

    corpus: str
    ids: list[str]
    clips: list[str]
    speakers: list[str | None]
    texts: list[str]  # normalised
    episodes: list[str | None]
    start: NDArray[np.float64]
    end: NDArray[np.float64]

    @cached_property
    def by_episode(self) -> dict[str, NDArray[np.int64]]:
        """Return the rows with a known time, by episode."""
        rows: dict[str, list[int]] = defaultdict(list)
        for i, (episode, start) in enumerate(zip(self.episodes, self.start.tolist(), strict=True)):
            if episode is not None and start == start:
                rows[episode].append(i)
        return {episode: np.array(found, dtype=np.int64) for episode, found in rows.items()}

    @cached_property
    def borrowed(self) -> dict[str, list[tuple[str, str]]]:
        """Return (id, clip) of clips below a folder named for another corpus, by that corpus; ``MELD/test/...``."""
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for name, clip in zip(self.ids, self.clips, strict=True):
            folder, _, path = clip.partition("/")
            if folder.isupper() and folder.lower() != self.corpus:
                found[folder.lower()].append((name, path))
        return dict(found)


class _Words(dict[int, str]):
    """Map the code points of letters and digits to themselves, all others to a space, each when it first occurs."""

    def __missing__(self, point: int) -> str:
        self[point] = chr(point) if chr(point).isalnum() else " "
        return self[point]


_WORDS: Final = _Words()


def normalised(text: str) -> str:
    """Return lower-case words with single spaces: what two spellings of one utterance have in common."""
    return " ".join(text.lower().translate(_WORDS).split())


def long_enough(words: str) -> bool:
    """Say whether normalised words identify an utterance."""
    return words.count(" ") >= MIN_WORDS - 1


def sides(table: CorpusTable) -> tuple[Side, Side]:
    """Return a corpus's test utterances, and all others."""
    split, *columns = table.columns("split", *_COLUMNS)
    test = [one == "test" for one in split]
    rest = [not one for one in test]
    return _side(table.name, columns, test), _side(table.name, columns, rest)


def find_leaks(pairs: Sequence[tuple[Side, Side]], *, near: bool = True) -> list[Leak]:
    """Return every leak between the ``sides`` of some corpora: train and validation rows against test rows; sorted."""
    tests, others = [test for test, _ in pairs], [other for _, other in pairs]
    found = {*by_clip(tests, others), *by_time(tests, others), *by_text(tests, others)}
    if near:
        from emoverse.amt.near import by_near_text

        found.update(by_near_text(tests, others, {(leak.utterance_id, leak.test_id) for leak in found}))
    return sorted(found)


def by_clip(tests: Sequence[Side], others: Sequence[Side]) -> Iterable[Leak]:
    """Find clips that lie below a folder named for another corpus: ``MELD/test/...`` in ECF is MELD's ``test/...``."""
    for other in others:
        for test in tests:
            for name, test_id in same_clips(other, test):
                yield Leak(name, test_id, "clip")


def same_clips(one: Side, two: Side) -> Iterable[tuple[str, str]]:
    """Yield (id, id) of utterances of ``one`` whose clip is a clip of ``two``."""
    wanted = one.borrowed.get(two.corpus)
    if wanted:
        known = dict(zip(two.clips, two.ids, strict=True))
        yield from ((name, known[path]) for name, path in wanted if path in known)


def by_time(tests: Sequence[Side], others: Sequence[Side]) -> Iterable[Leak]:
    """Find utterances of one episode at the same time."""
    for one, i, two, j in overlaps(others, tests, MIN_IOU):
        yield Leak(one.ids[i], two.ids[j], "time")


def by_text(tests: Sequence[Side], others: Sequence[Side]) -> Iterable[Leak]:
    """Find utterances of the same speaker with the same words, six or more."""
    known: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
    for test in tests:
        for name, words, speaker in zip(test.ids, test.texts, test.speakers, strict=True):
            if long_enough(words):
                known[words].append((name, speaker))
    for other in others:
        for name, words, speaker in zip(other.ids, other.texts, other.speakers, strict=True):
            for test_id, test_speaker in known.get(words, ()):
                if same_speaker(speaker, test_speaker):
                    yield Leak(name, test_id, "text")


def same_speaker(one: str | None, two: str | None) -> bool:
    """Say whether two speakers can be the same person."""
    return one is None or two is None or one == two


def overlaps(ones: Sequence[Side], twos: Sequence[Side], least: float) -> Iterable[tuple[Side, int, Side, int]]:
    """Yield pairs of utterances of the same episode whose intersection is at least ``least`` of their union."""
    groups: dict[str, list[tuple[Side, NDArray[np.int64]]]] = defaultdict(list)
    for two in twos:
        for episode, rows in two.by_episode.items():
            groups[episode].append((two, rows))
    for one in ones:
        for episode, left in one.by_episode.items():
            for two, right in groups.get(episode, ()):
                a, b = one.start[left][:, None], one.end[left][:, None]
                c, d = two.start[right], two.end[right]
                shared = np.minimum(b, d) - np.maximum(a, c)
                union = np.maximum(b, d) - np.minimum(a, c)
                for i, j in np.argwhere((shared > 0) & (shared >= least * union)):
                    yield one, int(left[i]), two, int(right[j])


def _side(corpus: str, columns: Sequence[Sequence[Any]], chosen: Sequence[bool]) -> Side:
    ids, clips, speakers, texts, episodes, start, end = (list(compress(column, chosen)) for column in columns)
    times = (np.array(column, dtype=np.float64) for column in (start, end))  # None becomes NaN
    return Side(corpus, ids, clips, speakers, list(map(normalised, texts)), episodes, *times)
