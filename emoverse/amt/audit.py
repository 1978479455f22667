"""Look for leakage and label conflicts, in annotation files and in validated corpora."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from emoverse.amt.corpus_table import CorpusTable
from emoverse.amt.leakage import (
    MIN_IOU,
    MIN_WORDS,
    Leak,
    Side,
    by_text,
    by_time,
    find_leaks,
    overlaps,
    same_clips,
    sides,
)
from emoverse.corpora import Reading, Split, Utterance, ecf, meld
from emoverse.errors import RowErrors, UserError

CONFLICT_MIN_IOU: Final = 0.5
"""Share of the union two spans of an episode must have in common to be one utterance."""


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


def audit_corpora(tables: Sequence[CorpusTable], *, near: bool = True) -> CorporaAudit:
    """Compare all corpora with each other; ``near`` looks for nearly equal transcripts too."""
    pairs = [sides(table) for table in tables]
    shared = shared_utterances(pairs)
    emotion = {utterance.utterance_id: utterance.emotion for table in tables for utterance in table.utterances}
    return CorporaAudit(find_leaks(pairs, near=near), shared, conflicts(shared, emotion))


def _split(utterance_id: str) -> str:
    return "/".join(utterance_id.split("/", 2)[:2])


def _write_lines(path: Path, rows: Iterable[Leak | Conflict]) -> None:
    with path.open("wb") as handle:
        handle.writelines(orjson.dumps(row._asdict(), option=orjson.OPT_APPEND_NEWLINE) for row in rows)
