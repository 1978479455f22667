"""Find nearly equal transcripts by MinHash, in time linear in their number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from datasketch import MinHash, MinHashLSH

from emoverse.amt.leakage import Leak, Side, long_enough, same_speaker

THRESHOLD: Final = 0.8
"""Estimated Jaccard similarity of word trigrams from which two transcripts are nearly the same."""
_PERMUTATIONS: Final = 64
_SEED: Final = 1
_BATCH: Final = 4096


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
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        shingles = [_shingles(side.texts[i]) for i in batch]
        yield from zip(batch, MinHash.generator(shingles, num_perm=_PERMUTATIONS, seed=_SEED), strict=True)


def _shingles(words: str) -> list[bytes]:
    parts = words.split()
    return [" ".join(parts[i : i + 3]).encode("utf-8") for i in range(len(parts) - 2)]
