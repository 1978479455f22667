"""Look for leakage and label conflicts, in annotation files and in validated corpora.

A leak is a train or validation utterance that is also in a test set, of the same corpus or another. There are four
signs, measured on the real files against ECF's own mapping to MELD (2535 true pairs of ECF train and MELD test):

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
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
from datasketch import MinHash, MinHashLSH

from emoverse.amt.corpus_table import CorpusTable
from emoverse.corpora import Reading, Split, Utterance, ecf, meld
from emoverse.errors import RowErrors, UserError

MIN_IOU: Final = 0.3
MIN_WORDS: Final = 6
THRESHOLD: Final = 0.8
"""Estimated Jaccard similarity of word trigrams from which two transcripts are nearly the same."""
_PERMUTATIONS: Final = 64
_SEED: Final = 1
_BATCH: Final = 4096
_WORD: Final = re.compile(r"[^\W_]+")
CONFLICT_MIN_IOU: Final = 0.5
"""Share of the union two spans of an episode must have in common to be one utterance."""


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


def find_leaks(pairs: Sequence[tuple[Side, Side]], *, near_duplicates: bool = True) -> list[Leak]:
    """Return every leak between the ``sides`` of some corpora: train and validation rows against test rows; sorted."""
    tests, others = [test for test, _ in pairs], [other for _, other in pairs]
    leaks = {*by_clip(tests, others), *by_time(tests, others), *by_text(tests, others)}
    if near_duplicates:
        leaks.update(near_duplicates_of(tests, others, {(leak.utterance_id, leak.test_id) for leak in leaks}))
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


def near_duplicates_of(tests: Sequence[Side], others: Sequence[Side], known: set[tuple[str, str]]) -> Iterable[Leak]:
    """Yield train utterances whose text nearly equals a test utterance's, without the pairs in ``known``."""
    index = MinHashLSH(threshold=THRESHOLD, num_perm=_PERMUTATIONS)
    indexed: dict[str, tuple[Utterance, MinHash]] = {}
    for test in tests:
        for utterance, signature in _signatures(test):
            indexed[utterance.utterance_id] = utterance, signature
            index.insert(utterance.utterance_id, signature, check_duplication=False)
    for other in others:
        for utterance, signature in _signatures(other):
            for test_id in sorted(index.query(signature)):
                test_utterance, other_signature = indexed[test_id]
                similar = signature.jaccard(other_signature) >= THRESHOLD and same_speaker(utterance, test_utterance)
                if similar and (utterance.utterance_id, test_id) not in known:
                    yield Leak(utterance.utterance_id, test_id, "near")


def _signatures(side: Side) -> Iterable[tuple[Utterance, MinHash]]:
    """Yield the utterances with a long text and the MinHash of its word trigrams."""
    for start in range(0, len(side.long_texts), _BATCH):
        batch = side.long_texts[start : start + _BATCH]
        shingles = [_shingles(text) for _, text in batch]
        signatures = MinHash.generator(shingles, num_perm=_PERMUTATIONS, seed=_SEED)
        yield from zip((utterance for utterance, _ in batch), signatures, strict=True)


def _shingles(text: str) -> list[bytes]:
    parts = text.split()
    return [" ".join(parts[i : i + 3]).encode("utf-8") for i in range(len(parts) - 2)]


class Conflict(NamedTuple):
    """One utterance under two ids with two emotions."""

    one_id: str
    other_id: str
    one_emotion: str
    other_emotion: str


def shared_utterances(pairs: Sequence[tuple[Side, Side]]) -> list[tuple[str, str]]:
    """Return (id, id) of utterances that two different corpora share, by clip or by episode and time, sorted."""
    halves: list[Side] = [side for pair in pairs for side in pair]
    shared: set[tuple[str, str]] = set()
    for i, one in enumerate(halves):
        for other in halves[i + 1 :]:
            if one.corpus != other.corpus:
                shared.update(same_clips(one, other))
                shared.update((left, right) for right, left in same_clips(other, one))
                shared.update(overlaps(one, other, CONFLICT_MIN_IOU))
    return sorted(shared)


def conflicts(pairs: Iterable[tuple[str, str]], emotion: Mapping[str, str | None]) -> list[Conflict]:
    """Return the pairs whose emotions differ, where both have one."""
    labelled = ((one, other, emotion[one], emotion[other]) for one, other in pairs)
    return sorted(
        Conflict(one, other, left, right)
        for one, other, left, right in labelled
        if left is not None and right is not None and left != right
    )


def summary(pairs: Sequence[tuple[str, str]], differing: Sequence[Conflict]) -> dict[str, Any]:
    """Return how many utterances are shared, how many differ, and the most frequent differences."""
    kinds = Counter(f"{conflict.one_emotion} -> {conflict.other_emotion}" for conflict in differing)
    return {
        "shared_utterances": len(pairs),
        "different_emotion": len(differing),
        "commonest": dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:10]),
    }


Clips = Mapping[tuple[str, int], tuple[Split, str]]


def audit_annotations(meld_dir: Path, ecf_train: Path, ecf_mapping: Path) -> dict[str, Any]:
    """Return the report as one JSON object; raise RowErrors naming every bad row of the inputs.

    ``leakage``: how many MELD test utterances are in ECF train, how many conversations touch one, and what the
    leak-free cut (without those conversations) keeps. ``conflicts``: the shared utterances whose emotions differ.
    """
    if not meld_dir.is_dir():
        raise UserError("no such folder", place=str(meld_dir), remedy="give the folder of MELD's three CSVs")
    friends = {utterance.utterance_id: utterance for utterance in _strict(meld.read(meld_dir), meld_dir)}
    train = _strict(ecf.read_split(ecf_train, "train"), ecf_train.parent)
    pairs = _pairs(train, ecf.read_mapping(ecf_mapping), friends, ecf_mapping)
    return {
        "leakage": {**_leakage(train, pairs), "without_mapping": _signs(train, list(friends.values()))},
        "conflicts": _conflicts(train, pairs, friends),
    }


def _leakage(train: Sequence[Utterance], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Count what the mapping says about MELD test, and what is left without the conversations it touches."""
    test = {ecf_id: meld_id for ecf_id, meld_id in pairs if meld_id.startswith("meld/test/")}
    touched = {utterance.dialogue_id for utterance in train if utterance.utterance_id in test}
    kept = [utterance for utterance in train if utterance.dialogue_id not in touched]
    targets = [utterance for utterance in kept if utterance.emotion != "neutral"]
    by_split = {split: sum(meld_id.startswith(f"meld/{split}/") for _, meld_id in pairs) for split in meld.FILES}
    return {
        "meld_test_utterances": len(set(test.values())),
        "meld_utterances": by_split,
        "dropped_conversations": len(touched),
        "kept_conversations": len({utterance.dialogue_id for utterance in kept}),
        "kept_targets": len(targets),
        "kept_targets_with_cause": sum(bool(utterance.causes) for utterance in targets),
    }


def _conflicts(
    train: Sequence[Utterance], pairs: Sequence[tuple[str, str]], friends: Mapping[str, Utterance]
) -> dict[str, Any]:
    """Compare the emotions of shared utterances, MELD's first, and list every one that differs."""
    emotion = {utterance.utterance_id: utterance.emotion for utterance in (*train, *friends.values())}
    meld_first = [(meld_id, ecf_id) for ecf_id, meld_id in pairs]
    differing = conflicts(meld_first, emotion)
    return {**summary(meld_first, differing), "listed": [conflict._asdict() for conflict in differing]}


def _signs(train: Sequence[Utterance], friends: Sequence[Utterance]) -> dict[str, int]:
    """Count the MELD test utterances found in ECF train by episode and time, or equal text, without the mapping."""
    (_, others), (tests, _) = sides(CorpusTable(train)), sides(CorpusTable(friends))
    return {
        "by_time": len({leak.test_id for leak in by_time([tests], [others])}),
        "by_text": len({leak.test_id for leak in by_text([tests], [others])}),
    }


def _pairs(
    train: Sequence[Utterance], mapping: Clips, friends: Mapping[str, Utterance], path: Path
) -> list[tuple[str, str]]:
    """Return (ECF id, MELD id) of mapped utterances; raise RowErrors for clips that MELD does not have."""
    pairs, problems = [], []
    for utterance in train:
        target = mapping.get((utterance.dialogue_id, utterance.position))
        if target is None:
            continue
        meld_id = f"meld/{target[0]}/{target[1]}"
        if meld_id in friends:
            pairs.append((utterance.utterance_id, meld_id))
        else:
            where = f"conversation {utterance.dialogue_id} utterance {utterance.position}"
            problems.append(f"{path}: {where}: MELD has no {meld_id}")
    if problems:
        raise RowErrors(problems, remedy="give the mapping that belongs to these files")
    if not pairs:
        remedy = "give the ECFvsMELD file, and ECF's train file"
        raise UserError("maps no utterance of the train file", place=str(path), remedy=remedy)
    return pairs


def _strict(reading: Reading, folder: Path) -> list[Utterance]:
    """Return the utterances when no row was set aside: an incomplete audit would be mistaken for a complete one."""
    if reading.quarantined:
        problems = [row.message(folder) for row in reading.quarantined]
        raise RowErrors(problems, remedy="correct the rows and run the audit again")
    return reading.utterances


@dataclass(frozen=True)
class CorporaAudit:
    """Leaks, the utterances that two corpora share, and those of them that are labelled differently."""

    leaks: list[Leak]
    shared: list[tuple[str, str]]
    conflicts: list[Conflict]

    @property
    def leaked(self) -> frozenset[str]:
        """Return the ids of train and validation utterances that show a test utterance."""
        return frozenset(leak.utterance_id for leak in self.leaks)

    def summary(self, policy: str) -> dict[str, Any]:
        """Return the counts for ``audit.json``; pairs of splits are named ``ecf/train in meld/test``."""
        pairs = {(leak.utterance_id, leak.test_id) for leak in self.leaks}
        between = Counter(f"{_split(train_id)} in {_split(test_id)}" for train_id, test_id in pairs)
        leakage = {
            "policy": policy,
            "rule": {"least_iou": MIN_IOU, "least_words": MIN_WORDS},
            "utterances": len(self.leaked),
            "test_utterances": len({leak.test_id for leak in self.leaks}),
            "pairs": dict(sorted(between.items())),
            "signs": dict(sorted(Counter(leak.sign for leak in self.leaks).items())),
        }
        return {"leakage": leakage, "conflicts": summary(self.shared, self.conflicts)}

    def write(self, folder: Path) -> None:
        """List every leak and every conflict as JSON lines."""
        _write_lines(folder / "leaks.jsonl", self.leaks)
        _write_lines(folder / "conflicts.jsonl", self.conflicts)


def audit_corpora(tables: Sequence[CorpusTable], *, near_duplicates: bool = True) -> CorporaAudit:
    """Compare all corpora with each other; ``near`` looks for nearly equal transcripts too."""
    pairs = [sides(table) for table in tables]
    shared = shared_utterances(pairs)
    emotion = {utterance.utterance_id: utterance.emotion for table in tables for utterance in table.utterances}
    return CorporaAudit(find_leaks(pairs, near_duplicates=near_duplicates), shared, conflicts(shared, emotion))


def _split(utterance_id: str) -> str:
    return "/".join(utterance_id.split("/", 2)[:2])


def _write_lines(path: Path, rows: Iterable[Leak | Conflict]) -> None:
    with path.open("wb") as handle:
        handle.writelines(orjson.dumps(row._asdict(), option=orjson.OPT_APPEND_NEWLINE) for row in rows)
