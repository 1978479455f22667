"""Audit corpora against each other before any row is made: leakage into test sets, and conflicting labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from emoverse.amt.conflicts import Conflict, conflicts, shared_utterances, summary
from emoverse.amt.leakage import MIN_IOU, MIN_WORDS, Leak, find_leaks, sides
from emoverse.amt.tables import CorpusTable
from emoverse.collector import uncollected


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


@uncollected()
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
