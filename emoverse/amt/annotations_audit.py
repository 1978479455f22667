"""Audit annotation files without videos: what of MELD's test set ECF train shows, and where their labels differ.

The mapping that came with ECF 1.0 says which MELD clip an utterance of ECF train is; the signs that ``build-amt`` uses,
which need no mapping, are counted beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emoverse.amt.conflicts import conflicts, summary
from emoverse.amt.leakage import by_text, by_time, sides
from emoverse.amt.tables import CorpusTable
from emoverse.corpora import ecf, ecf1, meld
from emoverse.corpora.base import Reading, Split, Utterance
from emoverse.errors import RowErrors, UserError

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
