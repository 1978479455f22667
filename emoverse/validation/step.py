"""The validate step: a raw corpus becomes utterances, frames, and a list of what was wrong."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from emoverse.corpora import reader
from emoverse.corpora.base import Reading, Utterance
from emoverse.digests import code_digest, digest_of_value
from emoverse.errors import UserError
from emoverse.manifest import Draft, open_raw, publish, write_json
from emoverse.media.action_units import UNITS, table_of
from emoverse.media.errors import ClipError
from emoverse.media.extract import Record, extract, records
from emoverse.media.frames import FOLDER, INDEX, write_index
from emoverse.media.locate import ClipFiles
from emoverse.media.measure import Measurer, measurer
from emoverse.media.shards import SHARDS
from emoverse.media.work import Task
from emoverse.params import MediaParams, ValidationParams, plain
from emoverse.steps import CODE
from emoverse.tables import (
    PROBES,
    ActionUnitRow,
    write_action_units,
    write_quarantine,
    write_table,
    write_utterances,
)
from emoverse.validation.expectations import Finding
from emoverse.validation.known import known_faults
from emoverse.validation.ledger import Ledger
from emoverse.validation.page import write_page
from emoverse.validation.suites import check_annotations, check_probes
from emoverse.validation.summary import summarise

LIBRARIES: Final = ("av", "decord", "great_expectations", "numpy", "pillow", "pyarrow")


def validate(
    corpus: str,
    raw: Path,
    out: Path,
    media: MediaParams,
    params: ValidationParams,
    *,
    workers: int | None = None,
    action_units: str | None = None,
) -> None:
    """Check the corpus in ``raw`` and publish ``out`` (files: docs/architecture.md).

    Every annotated row ends in ``utterances.parquet`` or, with its reason, in ``quarantine.parquet``. A killed run goes
    on where it was: clips it had finished wait in a hidden folder beside ``out``. When more than
    ``params.max_quarantined`` of the rows are set aside, all but the frames is written to ``<out>.failed`` and
    UserError is raised; ``out`` stays as it was.
    ``action_units`` says who measures clips without a table (``media.measure``); the manifest's facts record it.
    """
    read = reader(corpus)
    measuring = measurer(action_units)
    source = open_raw(raw, name=corpus)
    settings = {"media": plain(media), "validation": plain(params)}
    with publish(
        out, step="validate", name=corpus, params=settings, inputs={"raw": source}, code=CODE["validate"],
        libraries=LIBRARIES,
    ) as draft:  # fmt: skip
        scratch = draft.path.with_name(f".{out.name}.scratch")
        reading = read(raw)
        if not reading.rows:
            raise UserError("no annotated rows", place=str(raw), remedy="put the corpus's annotation files there")
        ledger = Ledger(reading, known_faults(corpus))
        findings = check_annotations(ledger.good)
        ledger.drop_findings(findings)
        tasks = _tasks(ledger, ClipFiles(raw), raw, media, measuring)
        measured = {"action_units": measuring.facts()} if measuring else {}
        fingerprint = digest_of_value(
            [source.digest, plain(media), code_digest(("media",)), [t.clip_id for t in tasks], measured]
        )
        try:
            resumed = extract(tasks, scratch, fingerprint=fingerprint, workers=workers, label=f"validate {corpus}")
            findings += _judge_clips(ledger, scratch, params)
            summary = _write(draft, ledger, scratch, reading, findings, corpus)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _disk_full(out, scratch) from error
        summary |= {"media": plain(media), "validation": plain(params)}
        write_json(draft.path / "summary.json", summary)
        write_page(draft.path / "page.html", summary, ledger.quarantine())
        draft.count(rows_in=ledger.rows, rows_out=len(ledger.good), dropped=ledger.dropped)
        draft.facts = {"notes": dict(sorted(reading.notes.items())), "unannotated": len(ledger.unannotated), **measured}
        draft.run = {"resumed_clips": resumed}
        if ledger.share > params.max_quarantined:
            raise _too_many(draft, out, raw, ledger, params)
        _take_frames(scratch, draft.path / FOLDER)
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(_failed(out), ignore_errors=True)  # what an earlier run complained of no longer holds


def _tasks(ledger: Ledger, files: ClipFiles, raw: Path, media: MediaParams, measuring: Measurer | None) -> list[Task]:
    """Return a task for each good row whose clip is there, in order of utterance id; set the other rows aside."""
    tasks: list[Task] = []
    failures: dict[int, tuple[str, str, str]] = {}
    for position, u in enumerate(ledger.good):
        try:
            path = files.find(u.clip)
        except ClipError as error:
            failures[position] = ("clip", error.reason, error.detail)
            continue
        units = table_of(raw, path.relative_to(raw).as_posix())
        task = Task(clip_id=u.utterance_id, clip=u.clip, path=path.absolute(), units=units, params=media)
        tasks.append(replace(task, measurer=measuring))
    ledger.drop(failures)
    ledger.leave_out(files.beside(ledger.mentioned))
    return tasks


def _judge_clips(ledger: Ledger, scratch: Path, params: ValidationParams) -> list[Finding]:
    """Set aside rows whose clip could not be read, or is not what is expected of one."""
    failures = {n: ("clip", *r.failure) for n, r in enumerate(records(scratch)) if r.failure}
    ledger.drop(failures)
    gaps = _gaps(ledger.good, scratch)
    probes = [r.probe for r in records(scratch) if r.probe]
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


def _write(
    draft: Draft, ledger: Ledger, scratch: Path, reading: Reading, findings: list[Finding], corpus: str
) -> dict[str, Any]:
    """Write the tables of the rows that passed; return the summary."""
    passed = {u.utterance_id: u for u in ledger.good}
    kept = [u.utterance_id for u in ledger.good]
    write_utterances(draft.path / "utterances.parquet", ledger.good)
    write_quarantine(draft.path / "quarantine.parquet", ledger.quarantine())

    def good() -> Any:
        return (r for r in records(scratch) if r.clip_id in passed)

    write_table(
        draft.path / "probe.parquet",
        PROBES,
        ({"utterance_id": r.clip_id, "clip": passed[r.clip_id].clip, "duration_gap": _gap(passed[r.clip_id], r)}
         | vars(r.probe) for r in good()),
    )  # fmt: skip
    faces = (
        ActionUnitRow(utterance_id=r.clip_id, frame=r.peak[0], intensities=dict(zip(UNITS, r.peak[1], strict=True)))
        for r in good()
        if r.peak
    )
    n_faces = write_action_units(draft.path / "action_units.parquet", UNITS, faces)
    (draft.path / FOLDER).mkdir()
    write_index(
        draft.path / FOLDER / INDEX,
        ((r.clip_id, kind, number, frame, slot) for r in good() for kind, number, frame, slot in r.slots),
    )
    assert len(kept) == len(passed)
    notes = {r.clip_id: r.note for r in good() if r.note}
    probes = [(r.clip_id, r.probe) for r in good()]
    return summarise(corpus, ledger, reading, findings, probes, n_faces=n_faces, face_notes=notes)


def _take_frames(scratch: Path, folder: Path) -> None:
    for shard in sorted(scratch.glob(SHARDS)):
        shard.rename(folder / shard.name)


def _failed(out: Path) -> Path:
    return out.with_name(f"{out.name}.failed")


def _too_many(draft: Draft, out: Path, raw: Path, ledger: Ledger, params: ValidationParams) -> UserError:
    """Keep what was written where no step takes it for finished; return the error to raise."""
    failed = _failed(out)
    shutil.rmtree(failed, ignore_errors=True)
    shutil.copytree(draft.path, failed, ignore=shutil.ignore_patterns(FOLDER))
    worst = ", ".join(f"{reason} {n}" for reason, n in ledger.dropped.most_common(3))
    problem = (
        f"{len(ledger.set_aside)} of {ledger.rows} rows ({ledger.share:.1%}) are quarantined, more than "
        f"validation.max_quarantined ({params.max_quarantined:.1%}) allows: {worst}"
    )
    return UserError(
        problem, place=str(raw), remedy=f"look at {failed / 'page.html'}; mend the corpus or raise the limit"
    )


def _disk_full(out: Path, scratch: Path) -> UserError:
    written = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
    shutil.rmtree(scratch, ignore_errors=True)
    problem = f"the disk is full: {written:,} bytes of frames were written (and removed) and more are needed"
    return UserError(problem, place=str(out), remedy=f"free more than {written:,} bytes there and run again")
