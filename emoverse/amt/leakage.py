"""Find train and validation utterances that are also in a test set, of the same corpus or another.

Four signs, measured on the real files against ECF's own mapping to MELD (2535 true pairs of ECF train and MELD test):

* ``clip``: the row's clip is the test row's clip (ECF mapped to MELD).
* ``time``: same episode, spans that share ``MIN_IOU`` of their union. Finds 2480 of the 2535; a sign that needs less
  overlap finds 25 more and three times as many neighbours, because some of MELD's spans last minutes.
* ``text``: same text and same speaker (where both name one), at least ``MIN_WORDS`` words: "Okay." is no leak. With
  six words 589 of 591 pairs are true, with four 830 of 901.
* ``near``: the text is nearly the same: a Jaccard similarity of word trigrams of at least ``THRESHOLD``.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Final, NamedTuple

from datasketch import MinHash, MinHashLSH

from emoverse.amt.corpus_table import CorpusTable
from emoverse.corpora import Utterance

MIN_IOU: Final = 0.3
MIN_WORDS: Final = 6
THRESHOLD: Final = 0.8
"""Estimated Jaccard similarity of word trigrams from which two transcripts are nearly the same."""
_PERMUTATIONS: Final = 64
_SEED: Final = 1
_BATCH: Final = 4096
_WORD: Final = re.compile(r"[^\W_]+")


class Leak(NamedTuple):
    """A train (or validation) utterance that shows a test utterance, and the sign that it was found by."""

    utterance_id: str
    test_id: str
    sign: str


@dataclass(frozen=True)
class Side:
    """The test utterances of one corpus, or all others."""

    corpus: str
    utterances: Sequence[Utterance]

    @cached_property
    def long_texts(self) -> list[tuple[Utterance, str]]:
        """Return the utterances whose normalised text is long enough to identify them, and that text."""
        texts = ((utterance, normalised(utterance.text)) for utterance in self.utterances)
        return [(utterance, text) for utterance, text in texts if text.count(" ") >= MIN_WORDS - 1]

    @cached_property
    def episodes(self) -> dict[str, list[tuple[float, float, str]]]:
        """Return (start, end, id) of the utterances with a known time, by episode and in order."""
        spans: defaultdict[str, list[tuple[float, float, str]]] = defaultdict(list)
        for utterance in self.utterances:
            if utterance.episode is not None and utterance.start is not None and utterance.end is not None:
                spans[utterance.episode].append((utterance.start, utterance.end, utterance.utterance_id))
        return {episode: sorted(listed) for episode, listed in spans.items()}

    @cached_property
    def borrowed(self) -> dict[str, list[tuple[str, str]]]:
        """Return (id, clip) of clips in a folder named after another corpus, by that corpus: ``MELD/test/...``."""
        clips: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for utterance in self.utterances:
            folder, _, path = utterance.clip.partition("/")
            if folder.isupper() and folder.lower() != self.corpus:
                clips[folder.lower()].append((utterance.utterance_id, path))
        return dict(clips)


def normalised(text: str) -> str:
    """Return lower-case words with single spaces: what two spellings of one utterance have in common."""
    return " ".join(_WORD.findall(text.lower()))


def sides(table: CorpusTable) -> tuple[Side, Side]:
    """Return a corpus's test utterances, and all others."""
    tests = [utterance for utterance in table.utterances if utterance.split == "test"]
    others = [utterance for utterance in table.utterances if utterance.split != "test"]
    return Side(table.name, tests), Side(table.name, others)


def find_leaks(pairs: Sequence[tuple[Side, Side]], *, near: bool = True) -> list[Leak]:
    """Return every leak between the ``sides`` of some corpora: train and validation rows against test rows; sorted."""
    tests, others = [test for test, _ in pairs], [other for _, other in pairs]
    leaks = {*by_clip(tests, others), *by_time(tests, others), *by_text(tests, others)}
    if near:
        leaks.update(by_near_text(tests, others, {(leak.utterance_id, leak.test_id) for leak in leaks}))
    return sorted(leaks)


def by_clip(tests: Sequence[Side], others: Sequence[Side]) -> Iterable[Leak]:
    """Find clips in a folder named after another corpus: ``MELD/test/...`` in ECF is MELD's ``test/...``."""
    for other in others:
        for test in tests:
            for name, test_id in same_clips(other, test):
                yield Leak(name, test_id, "clip")


def same_clips(first: Side, second: Side) -> Iterable[tuple[str, str]]:
    """Yield (id, id) of utterances of ``first`` whose clip is a clip of ``second``."""
    borrowed = first.borrowed.get(second.corpus, [])
    ids = {utterance.clip: utterance.utterance_id for utterance in second.utterances} if borrowed else {}
    return [(name, ids[path]) for name, path in borrowed if path in ids]


def by_time(tests: Sequence[Side], others: Sequence[Side]) -> Iterable[Leak]:
    """Find utterances of one episode at the same time."""
    for other in others:
        for test in tests:
            for name, test_id in overlaps(other, test, MIN_IOU):
                yield Leak(name, test_id, "time")


def by_text(tests: Sequence[Side], others: Sequence[Side]) -> Iterable[Leak]:
    """Find utterances of the same speaker with the same text of at least six words."""
    known: defaultdict[str, list[Utterance]] = defaultdict(list)
    for test in tests:
        for utterance, text in test.long_texts:
            known[text].append(utterance)
    for other in others:
        for utterance, text in other.long_texts:
            for test_utterance in known.get(text, ()):
                if same_speaker(utterance, test_utterance):
                    yield Leak(utterance.utterance_id, test_utterance.utterance_id, "text")


def same_speaker(first: Utterance, second: Utterance) -> bool:
    """Return whether two speakers can be the same person."""
    return first.speaker is None or second.speaker is None or first.speaker == second.speaker


def overlaps(first: Side, second: Side, min_iou: float) -> Iterable[tuple[str, str]]:
    """Yield (id, id) of utterances of the same episode whose intersection is at least ``min_iou`` of their union."""
    for episode, spans in first.episodes.items():
        others = second.episodes.get(episode, [])
        # The first that may reach into a span: the first that, or whose predecessor, ends after the span starts.
        reach = list(accumulate((end for _, end, _ in others), max))
        for start, end, name in spans:
            for other_start, other_end, other_name in others[bisect_right(reach, start) :]:
                if other_start >= end:
                    break
                shared = min(end, other_end) - max(start, other_start)
                if shared > 0 and shared >= min_iou * (max(end, other_end) - min(start, other_start)):
                    yield name, other_name


def by_near_text(tests: Sequence[Side], others: Sequence[Side], known: set[tuple[str, str]]) -> Iterable[Leak]:
    """Yield train utterances whose text nearly equals a test utterance's, without the pairs in ``known``."""
    index = MinHashLSH(threshold=THRESHOLD, num_perm=_PERMUTATIONS)
    indexed: dict[str, tuple[Utterance, MinHash]] = {}
    for test in tests:
        for utterance, sketch in _sketches(test):
            indexed[utterance.utterance_id] = utterance, sketch
            index.insert(utterance.utterance_id, sketch, check_duplication=False)
    for other in others:
        for utterance, sketch in _sketches(other):
            for test_id in sorted(index.query(sketch)):
                found, found_sketch = indexed[test_id]
                near = sketch.jaccard(found_sketch) >= THRESHOLD and same_speaker(utterance, found)
                if near and (utterance.utterance_id, test_id) not in known:
                    yield Leak(utterance.utterance_id, test_id, "near")


def _sketches(side: Side) -> Iterable[tuple[Utterance, MinHash]]:
    """Yield the utterances with a long text and the MinHash of its word trigrams."""
    for start in range(0, len(side.long_texts), _BATCH):
        batch = side.long_texts[start : start + _BATCH]
        shingles = [_shingles(text) for _, text in batch]
        sketches = MinHash.generator(shingles, num_perm=_PERMUTATIONS, seed=_SEED)
        yield from zip((utterance for utterance, _ in batch), sketches, strict=True)


def _shingles(text: str) -> list[bytes]:
    parts = text.split()
    return [" ".join(parts[i : i + 3]).encode("utf-8") for i in range(len(parts) - 2)]
