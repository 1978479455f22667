"""Boil a validated corpus down to the numbers that the page, the terminal and the final report show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from emoverse.corpora.base import SPLITS, Quarantined, Reading
from emoverse.media.probe import Probe
from emoverse.validation.expectations import Finding
from emoverse.validation.known import fault_of, known_faults
from emoverse.validation.ledger import Ledger

SAMPLE: Final = 50  # quarantined rows shown in the report


def summarise(
    corpus: str,
    ledger: Ledger,
    reading: Reading,
    findings: Iterable[Finding],
    probes: Sequence[tuple[str, Probe]],
    *,
    n_faces: int,
    face_notes: Mapping[str, str],
) -> dict[str, Any]:
    """Return ``summary.json``: counts of rows, labels and reasons, facts of the clips, expectations, a sample."""
    quarantine = ledger.quarantine()
    checks = [finding.plain() for finding in findings]
    return {
        "corpus": corpus,
        "rows": {"in": ledger.rows, "out": len(ledger.good), "dropped": dict(sorted(ledger.dropped.items()))},
        "share_quarantined": round(ledger.share, 6),
        "unannotated_clips": len(ledger.unannotated),
        "splits": _splits(ledger, probes),
        "clips": _clips([probe for _, probe in probes]),
        "action_units": {
            "clips": n_faces,
            "unusable_tables": len(face_notes),
            "examples": [f"{name}: {note}" for name, note in sorted(face_notes.items())[:5]],
        },
        "expectations": checks,
        "expectations_passed": sum(check["success"] for check in checks),
        "notes": dict(sorted(reading.notes.items())),
        "known_faults": _known(corpus, ledger),
        "quarantine_sample": [_plain(row, known) for row, known in quarantine[:SAMPLE]],
    }


def _splits(ledger: Ledger, probes: Sequence[tuple[str, Probe]]) -> dict[str, Any]:
    seconds = {name: probe.duration for name, probe in probes}
    found: dict[str, Any] = {}
    for split in SPLITS:
        rows = [u for u in ledger.good if u.split == split]
        found[split] = {
            "rows": len(rows),
            "dialogues": len({u.dialogue_id for u in rows}),
            "seconds": round(sum(seconds[u.utterance_id] for u in rows), 3),
            "emotions": dict(sorted(Counter(u.emotion for u in rows if u.emotion).items())),
            "polarities": dict(sorted(Counter(u.polarity for u in rows if u.polarity).items())),
        }
    return found


def _clips(probes: Sequence[Probe]) -> dict[str, Any]:
    durations = np.array([probe.duration for probe in probes]) if probes else np.zeros(1)
    at = {"min": 0, "p05": 5, "median": 50, "p95": 95, "max": 100}
    counts, edges = np.histogram(durations, bins=20)
    return {
        "count": len(probes),
        "duration": {name: round(float(np.percentile(durations, q)), 3) for name, q in at.items()},
        "duration_histogram": {"counts": counts.tolist(), "edges": [round(float(e), 3) for e in edges]},
        "sizes": dict(Counter(f"{p.width}x{p.height}" for p in probes).most_common(8)),
        "fps": dict(Counter(f"{p.fps:.1f}" for p in probes).most_common(8)),
        "codecs": dict(sorted(Counter(p.codec for p in probes).items())),
        "decoders": dict(sorted(Counter(p.decoder for p in probes).items())),
        "rotated": sum(p.rotation != 0 for p in probes),
        "with_audio": sum(p.has_audio for p in probes),
    }


def _known(corpus: str, ledger: Ledger) -> dict[str, Any]:
    """Return each reported fault with how many of its clips were set aside and how many passed."""
    faults = known_faults(corpus)
    passed = Counter(fault for u in ledger.good if (fault := fault_of(u.clip, faults)))
    aside = sum(known for _, known in ledger.quarantine())
    rows = [{"clips": list(f.clips), "fault": f.fault, "source": f.source, "passed": passed[f]} for f in faults]
    return {"quarantined": aside, "reports": rows}


def _plain(row: Quarantined, known: bool) -> dict[str, Any]:
    return {**vars(row), "known": known}
