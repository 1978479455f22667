"""Look for leakage and label conflicts, in annotation files and in validated corpora."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from emoverse.amt.columns import CorpusTable
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
from emoverse.corpora import ecf, ecf1, meld
from emoverse.corpora.base import Reading, Split, Utterance
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
    found: set[tuple[str, str]] = set()
    for i, one in enumerate(halves):
        for other in halves[i + 1 :]:
            if one.corpus != other.corpus:
                found.update(same_clips(one, other))
                found.update((left, right) for right, left in same_clips(other, one))
                found.update(overlaps(one, other, CONFLICT_MIN_IOU))
    return sorted(found)


def conflicts(pairs: Iterable[tuple[str, str]], emotion: dict[str, str | None]) -> list[Conflict]:
    """Return the pairs whose emotions differ, where both have one."""
    found = []
    for one, other in pairs:
        left, right = emotion[one], emotion[other]
        if left is not None and right is not None and left != right:
            found.append(Conflict(one, other, left, right))
    return sorted(found)


def summary(pairs: Sequence[tuple[str, str]], found: Sequence[Conflict]) -> dict[str, Any]:
    """Return how many utterances are shared, how many differ, and the commonest differences."""
    kinds = Counter(f"{one.one_emotion} -> {one.other_emotion}" for one in found)
    return {
        "shared_utterances": len(pairs),
        "different_emotion": len(found),
        "commonest": dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:10]),
    }


Clips = Mapping[tuple[str, int], tuple[Split, str]]


def audit_annotations(meld_dir: Path, ecf_train: Path, ecf_mapping: Path) -> dict[str, Any]:
    """Return the report as one JSON object; raise RowErrors naming every bad row of the inputs.

    ``leakage``: how many MELD test utterances are in ECF train, how many conversations touch one, and what the
    leak-free cut (without those conversations) keeps. ``conflicts``: the shared utterances whose emotions differ.
    """
    friends = _meld(meld_dir)
    train = _strict(ecf.read_split(ecf_train, "train"), ecf_train.parent)
    pairs = _pairs(train, ecf1.read_mapping(ecf_mapping), friends, ecf_mapping)
    return {
        "leakage": {**_leakage(train, pairs), "without_mapping": _signs(train, list(friends.values()))},
        "conflicts": _conflicts(train, pairs, friends),
    }


def _leakage(train: Sequence[Utterance], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Count what the mapping says about MELD test, and what is left without the conversations it touches."""
    test = {one: other for one, other in pairs if other.startswith("meld/test/")}
    touched = {one.dialogue_id for one in train if one.utterance_id in test}
    kept = [one for one in train if one.dialogue_id not in touched]
    targets = [one for one in kept if one.emotion != "neutral"]
    everything = {split: sum(other.startswith(f"meld/{split}/") for _, other in pairs) for split in meld.FILES}
    return {
        "meld_test_utterances": len(set(test.values())),
        "meld_utterances": everything,
        "dropped_conversations": len(touched),
        "kept_conversations": len({one.dialogue_id for one in kept}),
        "kept_targets": len(targets),
        "kept_targets_with_cause": sum(bool(one.causes) for one in targets),
    }


def _conflicts(
    train: Sequence[Utterance], pairs: Sequence[tuple[str, str]], friends: Mapping[str, Utterance]
) -> dict[str, Any]:
    """Compare the emotions of shared utterances, MELD's first, and list every one that differs."""
    emotion = {one.utterance_id: one.emotion for one in (*train, *friends.values())}
    turned = [(other, one) for one, other in pairs]
    found = conflicts(turned, emotion)
    return {**summary(turned, found), "listed": [one._asdict() for one in found]}


def _signs(train: Sequence[Utterance], friends: Sequence[Utterance]) -> dict[str, int]:
    """Count the MELD test utterances that episode and time, or equal words, find in ECF train without the mapping."""
    (_, others), (tests, _) = sides(CorpusTable.of(train)), sides(CorpusTable.of(friends))
    return {
        "by_time": len({leak.test_id for leak in by_time([tests], [others])}),
        "by_text": len({leak.test_id for leak in by_text([tests], [others])}),
    }


def _pairs(
    train: Sequence[Utterance], mapping: Clips, friends: Mapping[str, Utterance], path: Path
) -> list[tuple[str, str]]:
    """Return (ECF id, MELD id) of mapped utterances; raise RowErrors for clips MELD does not have."""
    found, problems = [], []
    for one in train:
        target = mapping.get((one.dialogue_id, one.position))
        if target is None:
            continue
        meld_id = f"meld/{target[0]}/{target[1]}"
        if meld_id in friends:
            found.append((one.utterance_id, meld_id))
        else:
            problems.append(f"{path}: conversation {one.dialogue_id} utterance {one.position}: MELD has no {meld_id}")
    if problems:
        raise RowErrors(problems, remedy="give the mapping that belongs to these files")
    if not found:
        remedy = "give the ECFvsMELD file, and ECF's train file"
        raise UserError("maps no utterance of the train file", place=str(path), remedy=remedy)
    return found


def _meld(folder: Path) -> dict[str, Utterance]:
    if not folder.is_dir():
        raise UserError("no such folder", place=str(folder), remedy="give the folder of MELD's three CSVs")
    return {one.utterance_id: one for one in _strict(meld.read(folder), folder)}


def _strict(reading: Reading, folder: Path) -> list[Utterance]:
    """Return the utterances when no row was set aside: an audit with holes would pass for a whole one."""
    if reading.quarantined:
        problems = [row.said(folder) for row in reading.quarantined]
        raise RowErrors(problems, remedy="mend the rows and run the audit again")
    return reading.utterances


@dataclass(frozen=True)
class CorporaAudit:
    """What was found: leaks, the utterances two corpora share, and those of them that are labelled differently."""

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
        between = Counter(f"{_split(one)} in {_split(test)}" for one, test in pairs)
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
    wanted = {name for pair in shared for name in pair}
    labels = (zip(side.ids, side.emotions, strict=True) for pair in pairs for side in pair)
    emotion = {name: label for side in labels for name, label in side if name in wanted}
    return CorporaAudit(find_leaks(pairs, near=near), shared, conflicts(shared, emotion))


def _split(utterance_id: str) -> str:
    return "/".join(utterance_id.split("/", 2)[:2])


def _write_lines(path: Path, rows: Iterable[Leak | Conflict]) -> None:
    with path.open("wb") as handle:
        handle.writelines(orjson.dumps(row._asdict(), option=orjson.OPT_APPEND_NEWLINE) for row in rows)
