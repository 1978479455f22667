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
from itertools import count
from typing import Any, Final, NamedTuple

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from emoverse.amt.columns import CorpusTable

MIN_IOU: Final = 0.3
MIN_WORDS: Final = 6
_BATCH: Final = 4096
_DAY: Final = 86_400.0  # seconds
_SLACK: Final = 1e-3  # seconds; a time after many days is rounded
_NUMBERS: Final[defaultdict[str | None, int]] = defaultdict(count().__next__)
"""Number the episodes as they come; which number one gets decides nothing."""
_COLUMNS: Final = ("utterance_id", "clip", "speaker", "text", "emotion", "episode", "start", "end")
Rows = NDArray[np.int64]
Times = NDArray[np.float64]


class Leak(NamedTuple):
    """A train (or validation) utterance that shows a test utterance, and by which sign it was found."""

    utterance_id: str
    test_id: str
    sign: str


@dataclass(frozen=True)
class Side:
    """Some utterances of one corpus in columns; ``start`` and ``end`` are NaN where unknown."""

    corpus: str
    ids: Sequence[str]
    clips: Sequence[str]
    speakers: Sequence[str | None]
    texts: Sequence[str]  # normalised
    emotions: Sequence[str | None]
    episodes: Sequence[str | None]
    start: Times
    end: Times

    @cached_property
    def timed(self) -> tuple[Rows, Times, Times, Times]:
        """Return the rows with a known time in order, and when the episode, the row and its end come.

        As if all episodes were shown one after another, a day for each.
        """
        known = np.fromiter((name is not None for name in self.episodes), np.bool_, len(self.ids))
        rows = np.flatnonzero(known & np.isfinite(self.start) & np.isfinite(self.end))
        day = _DAY * np.array([_NUMBERS[self.episodes[row]] for row in rows.tolist()], dtype=np.float64)
        order = np.argsort(day + self.start[rows], kind="stable")
        rows, day = rows[order], day[order]
        return rows, day, day + self.start[rows], day + self.end[rows]

    @cached_property
    def borrowed(self) -> dict[str, list[tuple[str, str]]]:
        """Return (id, clip) of clips below a folder named for another corpus, by that corpus; ``MELD/test/...``."""
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for name, clip in zip(self.ids, self.clips, strict=True):
            folder, _, path = clip.partition("/")
            if folder.isupper() and folder.lower() != self.corpus:
                found[folder.lower()].append((name, path))
        return dict(found)


def normalised(texts: Sequence[str]) -> list[str]:
    """Return lower-case words with single spaces: what two spellings of one utterance have in common.

    Words are letters and digits of any script. Many texts are looked up as one array of code points, NUL between them.
    """
    every = "".join([text.replace("\0", " ") + "\0" for text in texts]).lower()
    codes = np.frombuffer(every.encode("utf-32-le"), np.uint32)
    points = np.flatnonzero(np.bincount(codes))
    meant = np.zeros(int(codes.max(initial=0)) + 1, np.uint32)
    meant[points] = [point if point == 0 or chr(point).isalnum() else 32 for point in points.tolist()]
    words = meant[codes]
    gap = words == 32
    follows = np.concatenate([[True], (gap | (words == 0))[:-1]])  # what comes before is no word either
    kept: str = words[~(gap & follows)].tobytes().decode("utf-32-le")
    return kept.replace(" \0", "\0").split("\0")[:-1]


def long_enough(words: str) -> bool:
    """Say whether normalised words identify an utterance."""
    return words.count(" ") >= MIN_WORDS - 1


def sides(table: CorpusTable) -> tuple[Side, Side]:
    """Return a corpus's test utterances, and all others."""
    split, *columns = table.columns("split", *_COLUMNS)
    rest = len(split) - split.count("test")  # test comes last
    return _side(table.name, [one[rest:] for one in columns]), _side(table.name, [one[:rest] for one in columns])


def find_leaks(pairs: Sequence[tuple[Side, Side]], *, near: bool = True) -> list[Leak]:
    """Return every leak between the ``sides`` of some corpora: train and validation rows against test rows; sorted."""
    tests, others = [test for test, _ in pairs], [other for _, other in pairs]
    found = {*by_clip(tests, others), *by_time(tests, others), *by_text(tests, others)}
    if near:
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
    for other in others:
        for test in tests:
            for name, test_id in overlaps(other, test, MIN_IOU):
                yield Leak(name, test_id, "time")


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


def overlaps(one: Side, two: Side, least: float) -> Iterable[tuple[str, str]]:
    """Yield (id, id) of utterances of the same episode whose intersection is at least ``least`` of their union."""
    i, j = _neighbours(one, two)
    shared = np.minimum(one.end[i], two.end[j]) - np.maximum(one.start[i], two.start[j])
    union = np.maximum(one.end[i], two.end[j]) - np.minimum(one.start[i], two.start[j])
    alike = (shared > 0) & (shared >= least * union)
    for left, right in zip(i[alike].tolist(), j[alike].tolist(), strict=True):
        yield one.ids[left], two.ids[right]


def _neighbours(one: Side, two: Side) -> tuple[Rows, Rows]:
    """Return the rows of all pairs of utterances that touch in an episode, and of some that do not quite.

    In linear time: what touches a span is a stretch of the other side, from the first row that it or an earlier one
    reaches into the span, to the last that begins before the span ends.
    """
    left, day, start, end = one.timed
    right, other_day, other_start, other_end = two.timed
    first = np.searchsorted(np.maximum.accumulate(other_end), start - _SLACK)
    long = np.maximum(np.searchsorted(other_start, end + _SLACK) - first, 0)
    i = np.repeat(np.arange(len(left)), long)
    j = np.arange(len(i)) + np.repeat(first - np.cumsum(long) + long, long)
    same = day[i] == other_day[j]
    return left[i[same]], right[j[same]]


def _side(corpus: str, columns: Sequence[Sequence[Any]]) -> Side:
    ids, clips, speakers, texts, emotions, episodes, start, end = columns
    words = [one for at in range(0, len(texts), _BATCH) for one in normalised(texts[at : at + _BATCH])]
    times = (np.array(column, dtype=np.float64) for column in (start, end))  # None becomes NaN
    return Side(corpus, ids, clips, speakers, words, emotions, episodes, *times)


THRESHOLD: Final = 0.8
"""Estimated Jaccard similarity of word trigrams from which two transcripts are nearly the same."""
_PERMUTATIONS: Final = 64
_SEED: Final = 1
_NEAR_BATCH: Final = 4096


def by_near_text(tests: Sequence[Side], others: Sequence[Side], known: set[tuple[str, str]]) -> Iterable[Leak]:
    """Yield train utterances whose words nearly equal a test utterance's, pairs in ``known`` aside."""
    index = MinHashLSH(threshold=THRESHOLD, num_perm=_PERMUTATIONS)
    where: dict[str, tuple[Side, int, MinHash]] = {}
    for test in tests:
        for i, sketch in _sketches(test):
            where[test.ids[i]] = (test, i, sketch)
            index.insert(test.ids[i], sketch, check_duplication=False)
    for other in others:
        for i, sketch in _sketches(other):
            for test_id in sorted(index.query(sketch)):
                test, j, found = where[test_id]
                near = sketch.jaccard(found) >= THRESHOLD and same_speaker(other.speakers[i], test.speakers[j])
                if near and (other.ids[i], test_id) not in known:
                    yield Leak(other.ids[i], test_id, "near")


def _sketches(side: Side) -> Iterable[tuple[int, MinHash]]:
    """Yield (row, MinHash) of the transcripts that are long enough."""
    rows = [i for i, words in enumerate(side.texts) if long_enough(words)]
    for start in range(0, len(rows), _NEAR_BATCH):
        batch = rows[start : start + _NEAR_BATCH]
        shingles = [_shingles(side.texts[i]) for i in batch]
        yield from zip(batch, MinHash.generator(shingles, num_perm=_PERMUTATIONS, seed=_SEED), strict=True)


def _shingles(words: str) -> list[bytes]:
    parts = words.split()
    return [" ".join(parts[i : i + 3]).encode("utf-8") for i in range(len(parts) - 2)]
