"""The validate step: a raw corpus becomes utterances, frames, and a list of what was wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.digests import digest_of_value, modules_digest
from emoverse.artifacts.manifest import Draft, Source, open_raw, publish, write_json
from emoverse.config import MediaParams, ValidationParams, plain
from emoverse.corpora import get_corpus
from emoverse.errors import DISK_FULL, UserError
from emoverse.media.action_units import NOT_MEASURED, measurer
from emoverse.media.extract import JOURNAL, extract, records
from emoverse.media.frames import FOLDER
from emoverse.media.shards import SHARDS
from emoverse.validation.plan import Ledger, Plan, make_plan
from emoverse.validation.results import judge_clips, write_page, write_tables

DECODING_LIBRARIES: Final = ("av", "numpy", "pillow")  # they decide the stored frames


class TooManyQuarantined(UserError):  # noqa: N818  (a count)
    """Report a corpus of which too much was set aside.

    Args:
        folder: Holds everything that was written about the corpus.
        problem: As for `UserError`.
        place: As for `UserError`.
        remedy: As for `UserError`.
    """

    def __init__(self, folder: Path, problem: str, *, place: str, remedy: str) -> None:
        self.folder = folder
        super().__init__(problem, place=place, remedy=remedy)


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

    Every annotated row ends in ``utterances.parquet`` or, with its reason, in ``quarantine.parquet``. A killed run
    continues where it stopped: clips that it had finished are kept in a hidden folder beside ``out``.

    Args:
        corpus: Name of the corpus.
        raw: Its folder.
        out: Folder to publish.
        media: Section ``media``.
        params: Section ``validation``.
        workers: Decoder processes; None for one per core.
        action_units: Backend for clips without an OpenFace table, as for `action_units.measurer`; the manifest's facts
            record it.

    Raises:
        UserError: An input cannot be used, or more than ``params.max_quarantined`` of the rows are set aside. In the
            latter case all but the frames is written to ``<out>.failed``, and ``out`` stays as it was.
    """
    get_corpus(corpus)
    measuring = measurer(action_units)
    source = open_raw(raw, name=corpus)
    with publishing(corpus, out, source, media, params) as draft:
        plan = make_plan(corpus, raw, media, measuring)
        measured = {"action_units": measuring.facts()} if measuring else {}
        fingerprint = fingerprint_of(plan, source, media, measured)
        scratch = scratch_of(out)
        with reporting_full_disk(out, scratch, len(plan.tasks)):
            resumed = extract(plan.tasks, scratch, fingerprint=fingerprint, workers=workers, label=f"validate {corpus}")
            conclude(draft, plan, scratch, out, media, params, measured)
        draft.run = {"resumed_clips": resumed}


@contextmanager
def publishing(corpus: str, out: Path, source: Source, media: MediaParams, params: ValidationParams) -> Iterator[Draft]:
    """Yield the draft of the step's output; the same for one machine and for parts that are joined.

    Args:
        corpus: Name of the corpus.
        out: Folder to publish.
        source: The raw corpus.
        media: Section ``media``.
        params: Section ``validation``.
    """
    settings = {"media": plain(media), "validation": plain(params)}
    with publish(
        out, step="validate", name=corpus, params=settings, inputs={"raw": source},
    ) as draft:  # fmt: skip
        yield draft


def conclude(
    draft: Draft,
    plan: Plan,
    scratch: Path,
    out: Path,
    media: MediaParams,
    params: ValidationParams,
    measured: Mapping[str, Any],
) -> None:
    """Check the clips that were read and fill the draft.

    Args:
        draft: The output.
        plan: The rows and their clips.
        scratch: Folder with the clips that were read.
        out: Folder that will be published.
        media: Section ``media``.
        params: Section ``validation``.
        measured: Facts about the action-unit backend; empty without one.

    Raises:
        UserError: Too many rows failed, or the backend measured no clip.
    """
    ledger, notes = plan.ledger, plan.reading.notes
    findings = plan.findings + judge_clips(ledger, scratch, params)
    if measured:
        require_some_measured(scratch)
    summary = write_tables(draft.path, plan, scratch, findings)
    summary |= {"media": plain(media), "validation": plain(params)}
    write_json(draft.path / "summary.json", summary)
    write_page(draft.path / "page.html", summary, ledger.quarantine())
    draft.count(rows_in=ledger.rows, rows_out=len(ledger.good), dropped=ledger.dropped)
    draft.facts = {"notes": dict(sorted(notes.items())), "unannotated": len(ledger.unannotated), **measured}
    if ledger.share > params.max_quarantined:
        raise _too_many(draft, out, plan.raw, ledger, params)
    take_frames(scratch, draft.path / FOLDER)
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(_failed(out), ignore_errors=True)  # the earlier run's report no longer holds


def require_some_measured(scratch: Path) -> None:
    """Raise UserError when the backend could not measure the action units of a single clip."""
    tried = [record for record in records(scratch) if record.probe and (record.peak or record.note)]
    failed = [record.note for record in tried if record.note.startswith(NOT_MEASURED)]
    if failed and len(failed) == len(tried):
        problem = f"no action units were measured on any of {len(failed)} clips; the first: {failed[0]}"
        raise UserError(problem, place="--action-units", remedy="make the program work on one clip, then run again")


def fingerprint_of(plan: Plan, source: Source, media: MediaParams, measured: Mapping[str, Any]) -> str:
    """Return a digest of all that the frames depend on, so that no run continues with frames of other origin.

    Args:
        plan: The rows and their clips.
        source: The raw corpus.
        media: Section ``media``.
        measured: Facts about the action-unit backend.
    """
    ids = [task.clip_id for task in plan.tasks]
    code = modules_digest(["emoverse.media.extract"])
    versions = {name: version(name) for name in DECODING_LIBRARIES}
    return digest_of_value([source.digest, plain(media), code, ids, measured, versions])


def scratch_of(out: Path) -> Path:
    """Return the hidden folder beside an output in which a killed run's finished clips are kept."""
    return out.absolute().with_name(f".{out.name}.scratch")


def take_frames(scratch: Path, folder: Path) -> None:
    """Move the shards out of the scratch folder, by renaming."""
    for shard in sorted(scratch.glob(SHARDS)):
        shard.rename(folder / shard.name)


def _failed(out: Path) -> Path:
    return out.with_name(f"{out.name}.failed")


def _too_many(draft: Draft, out: Path, raw: Path, ledger: Ledger, params: ValidationParams) -> UserError:
    """Keep what was written in a folder that no step takes for finished; return the error to raise."""
    failed = _failed(out)
    shutil.rmtree(failed, ignore_errors=True)
    shutil.copytree(draft.path, failed, ignore=shutil.ignore_patterns(FOLDER))
    worst = ", ".join(f"{reason} {n}" for reason, n in ledger.dropped.most_common(3))
    problem = (
        f"{len(ledger.set_aside)} of {ledger.rows} rows ({ledger.share:.1%}) are quarantined, more than "
        f"validation.max_quarantined ({params.max_quarantined:.1%}) allows: {worst}"
    )
    remedy = f"look at {failed / 'page.html'}; correct the corpus or raise the limit"
    return TooManyQuarantined(failed, problem, place=str(raw), remedy=remedy)


@contextmanager
def reporting_full_disk(out: Path, scratch: Path, clips: int) -> Iterator[None]:
    """Turn "no space left" into a UserError that says how much is needed; what is finished stays for the next run."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise _disk_full(out, scratch, clips) from error


def _disk_full(out: Path, scratch: Path, clips: int) -> UserError:
    written = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
    journal = scratch / JOURNAL
    finished = max(0, journal.read_bytes().count(b"\n") - 1) if journal.is_file() else 0
    # Tables and page come on top: a tenth is far more than they take.
    needed = int(1.1 * written / max(finished, 1) * (clips - finished)) + (1 << 20)
    problem = (
        f"the disk is full: {finished} of {clips} clips are done ({written:,} bytes), "
        f"{'about' if finished else 'at least'} {needed:,} more needed"
    )
    remedy = f"free {needed:,} bytes there and run again, it goes on where it was; or give it up: rm -r {scratch}"
    return UserError(problem, place=str(out), remedy=remedy)
