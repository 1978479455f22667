"""Write what a validation found: tables, summary, page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, StrictUndefined

from emoverse.artifacts.tables import (
    PROBES,
    ActionUnitRow,
    write_action_units,
    write_quarantine,
    write_table,
    write_utterances,
)
from emoverse.config import ValidationParams
from emoverse.corpora import SPLITS, Quarantined, Reading, Utterance
from emoverse.media.action_units import UNITS
from emoverse.media.extract import Record, records
from emoverse.media.frames import FOLDER, INDEX, write_index
from emoverse.media.probe import REASONS, Probe
from emoverse.validation.expectations import Finding, check_probes
from emoverse.validation.plan import Ledger, Plan, fault_of, known_faults


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
    if u.start is None or u.end is None or record.probe.duration is None:
        return None
    return round(abs(record.probe.duration - (u.end - u.start)), 6)


def write_tables(folder: Path, plan: Plan, scratch: Path, findings: list[Finding]) -> dict[str, Any]:
    """Write the tables of the rows that passed, and the index of their frames; return the summary.

    Args:
        folder: Folder to write to.
        plan: The rows and their clips.
        scratch: Folder with the journal of the clips that were read.
        findings: Results of all checks.
    """
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


SAMPLE: Final = 50  # quarantined rows shown in the report, and rows shown for each kind of warning


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
    """Return ``summary.json``: counts of rows, labels and reasons, facts of the clips, expectations, a sample.

    Args:
        corpus: Name of the corpus.
        ledger: Its rows, good and set aside.
        reading: What its reader found.
        findings: Results of all checks.
        probes: (utterance id, probe) of each clip that passed.
        n_faces: Number of clips with action units.
        face_notes: Utterance id -> why it has no action units.
    """
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
        "warnings": _warnings(ledger),
        "notes": dict(sorted(reading.notes.items())),
        "known_faults": _known(corpus, ledger),
        "quarantine_sample": [_plain(row, known) for row, known in quarantine[:SAMPLE]],
    }


def _warnings(ledger: Ledger) -> dict[str, Any]:
    """Return, for each reason, how many rows that passed have a warning, and the first of them with what was measured.

    probe.parquet has the measured values of all rows.
    """
    rows: dict[str, list[dict[str, str]]] = {}
    for warning in ledger.warned:
        row = {"utterance_id": warning.utterance_id, "clip": warning.clip, "measured": warning.measured}
        rows.setdefault(warning.reason, []).append(row)
    return {reason: {"count": len(keys), "rows": keys[:SAMPLE]} for reason, keys in rows.items()}


def _splits(ledger: Ledger, probes: Sequence[tuple[str, Probe]]) -> dict[str, Any]:
    seconds = {name: probe.duration or 0.0 for name, probe in probes}
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
    durations = np.array([probe.duration for probe in probes if probe.duration is not None] or [0.0])
    at = {"min": 0, "p05": 5, "median": 50, "p95": 95, "max": 100}
    counts, edges = np.histogram(durations, bins=20)
    return {
        "count": len(probes),
        "duration": {name: round(float(np.percentile(durations, q)), 3) for name, q in at.items()},
        "duration_histogram": {"counts": counts.tolist(), "edges": [round(float(e), 3) for e in edges]},
        "sizes": dict(Counter(f"{p.width}x{p.height}" for p in probes).most_common(8)),
        "fps": dict(Counter("unknown" if p.fps is None else f"{p.fps:.1f}" for p in probes).most_common(8)),
        "codecs": dict(sorted(Counter(p.codec for p in probes).items())),
        "decoders": dict(sorted(Counter(p.decoder for p in probes).items())),
        "rotated": sum(p.rotation != 0 for p in probes),
        "hdr": sum(p.hdr for p in probes),
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


MEANING: Final = REASONS | {
    "bad-cause": "a cause or target that its conversation does not have",
    "bad-clip-name": "the clip is not named as its ids say",
    "bad-conversation": "no conversation can be read there",
    "bad-frame-rate": "the mean frame rate is outside the limits",
    "bad-id": "an id that cannot be part of a path",
    "bad-intensity": "an emotion intensity is negative or not a number",
    "bad-label": "a label that is not one of those known, or out of its range",
    "bad-number": "not a number",
    "bad-pair": "an emotion-cause pair that cannot be read or contradicts its utterance",
    "bad-quote": "misplaced quotation mark",
    "bad-size": "the picture is smaller or larger than the limits",
    "bad-speaker": "invalid speaker name",
    "bad-split": "unknown split",
    "bad-time": "a time that cannot be read",
    "blank-text": "nothing is said",
    "clip-black": "half or more of the chosen frames are black",
    "clip-frozen": "half or more of the chosen frames equal the one before",
    "clip-hdr": "high dynamic range, which is not tone-mapped: pictures look pale",
    "clip-silent": "there is a sound track, and all of it is silent",
    "clip-too-long": "the clip is longer than the limit",
    "clip-too-short": "the clip is shorter than the limit",
    "control-character": "the text has a control character, as a wrong encoding leaves it",
    "duration-gap": "the clip is much longer or shorter than its annotated span",
    "duplicate-id": "the id is on an earlier row",
    "empty-text": "nothing is said",
    "intensity-out-of-range": "an emotion intensity outside its scale",
    "line-break": "a cell runs over lines: a quotation mark is missing",
    "no-audio": "there is no sound track",
    "no-label": "the row has no label at all",
    "nul-byte": "a NUL byte inside the text",
    "ragged-row": "more or fewer cells than the header",
    "sentiment-out-of-range": "a sentiment outside its scale",
    "span-backwards": "it ends before it starts",
}
ROWS: Final = 500  # quarantined rows on the page; the table holds all


def write_page(path: Path, summary: Mapping[str, Any], quarantine: Sequence[tuple[Quarantined, bool]]) -> None:
    """Render the summary and the quarantine as one self-contained page.

    Styles and the small script are inline, so it opens from disk, offline, and in an iframe with ``sandbox``
    ``allow-scripts``. Without scripts all is readable; only the filter of the table is gone.
    """
    # Transcripts and file names are untrusted: autoescape keeps a <script> in one of them text.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["share"] = lambda value: f"{100 * value:.1f} %"
    environment.filters["count"] = lambda value: f"{value:,}"
    template = resources.files("emoverse.validation").joinpath("page.html.jinja").read_text("utf-8")
    text = environment.from_string(template).render(
        s=summary, rows=quarantine[:ROWS], total=len(quarantine), meaning=MEANING, bars=_bars(summary), sample=SAMPLE
    )
    path.write_text(text, "utf-8", newline="\n")


def _bars(summary: Mapping[str, Any]) -> list[dict[str, float]]:
    """Return the duration histogram as bars of an SVG 400 wide and 80 high."""
    counts, edges = (summary["clips"]["duration_histogram"][k] for k in ("counts", "edges"))
    top, wide = max([*counts, 1]), 400 / max(len(counts), 1)
    return [
        {"x": round(n * wide, 2), "w": round(wide - 1, 2), "h": round(80 * c / top, 2), "n": c, "from": edges[n]}
        for n, c in enumerate(counts)
    ]
