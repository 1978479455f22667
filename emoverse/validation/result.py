"""Judge the clips that were read, and write the tables of the rows that passed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from emoverse.corpora.base import Utterance
from emoverse.media.action_units import UNITS
from emoverse.media.extract import Record, records
from emoverse.media.frames import FOLDER, INDEX, write_index
from emoverse.params import ValidationParams
from emoverse.tables import (
    PROBES,
    ActionUnitRow,
    write_action_units,
    write_quarantine,
    write_table,
    write_utterances,
)
from emoverse.validation.expectations import Finding
from emoverse.validation.ledger import Ledger
from emoverse.validation.plan import Plan
from emoverse.validation.suites import check_probes
from emoverse.validation.summary import summarise


def judge_clips(ledger: Ledger, scratch: Path, params: ValidationParams) -> list[Finding]:
    """Set aside rows whose clip could not be read, or is not what is expected of one."""
    failures = {n: ("clip", *r.failure) for n, r in enumerate(records(scratch)) if r.failure}
    ledger.drop(failures)
    gaps = _gaps(ledger.good, scratch)
    probes = (r.probe for r in records(scratch) if r.probe)
    findings = check_probes(zip(probes, gaps, strict=True), params)
    ledger.drop_findings(findings, column="clip")
    return findings


def _gaps(good: Sequence[Utterance], scratch: Path) -> list[float | None]:
    """Return, for each readable clip, the seconds between its duration and its annotated span; None without a span."""
    readable = (r for r in records(scratch) if r.probe)
    return [_gap(u, record) for u, record in zip(good, readable, strict=True)]


def _gap(u: Utterance, record: Record) -> float | None:
    assert record.probe is not None
    assert record.clip_id == u.utterance_id
    if u.start is None or u.end is None:
        return None
    return round(abs(record.probe.duration - (u.end - u.start)), 6)


def write_tables(folder: Path, plan: Plan, scratch: Path, findings: list[Finding]) -> dict[str, Any]:
    """Write the tables of the rows that passed, and the index of their frames; return the summary."""
    ledger = plan.ledger
    passed = {u.utterance_id: u for u in ledger.good}
    assert len(passed) == len(ledger.good)
    write_utterances(folder / "utterances.parquet", ledger.good)
    write_quarantine(folder / "quarantine.parquet", ledger.quarantine())

    def good() -> Iterator[Record]:
        return (r for r in records(scratch) if r.clip_id in passed)

    write_table(
        folder / "probe.parquet",
        PROBES,
        ({"utterance_id": r.clip_id, "clip": passed[r.clip_id].clip, "duration_gap": _gap(passed[r.clip_id], r)}
         | vars(r.probe) for r in good()),
    )  # fmt: skip
    faces = (
        ActionUnitRow(utterance_id=r.clip_id, frame=r.peak[0], intensities=dict(zip(UNITS, r.peak[1], strict=True)))
        for r in good()
        if r.peak
    )
    n_faces = write_action_units(folder / "action_units.parquet", UNITS, faces)
    (folder / FOLDER).mkdir()
    write_index(
        folder / FOLDER / INDEX,
        ((r.clip_id, kind, number, frame, slot) for r in good() for kind, number, frame, slot in r.slots),
    )
    notes = {r.clip_id: r.note for r in good() if r.note}
    probes = [(r.clip_id, r.probe) for r in good() if r.probe]
    return summarise(plan.corpus, ledger, plan.reading, findings, probes, n_faces=n_faces, face_notes=notes)
