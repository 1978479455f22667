"""The step ``validate``: a raw corpus becomes utterances, frames, and a list of what was wrong.

Several machines may validate a corpus in parts, which are joined to exactly what one machine would have made. Part I of
N decodes a contiguous share of the clips and hashes its share of the files; annotations are read, and clips judged,
where the parts are joined.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.digests import (
    code_digest,
    digest_of_pairs,
    digest_of_value,
    files_below,
    modules_digest,
    sha256_and_md5,
)
from emoverse.artifacts.manifest import Draft, Source, open_raw, open_source, publish, raw_source, write_json
from emoverse.config import MediaParams, ValidationParams, plain
from emoverse.corpora import Reading, get_corpus
from emoverse.errors import DISK_FULL, UserError
from emoverse.media.action_units import NOT_MEASURED, measurer
from emoverse.media.extract import JOURNAL, extract, join, records
from emoverse.media.frames import FOLDER
from emoverse.media.shards import SHARDS
from emoverse.media.workers import Task
from emoverse.validation.plan import Ledger, Plan, make_plan
from emoverse.validation.results import judge_clips, write_page, write_tables

DECODING_LIBRARIES: Final = ("av", "numpy", "pillow")  # they decide the stored frames
PART_STEP: Final = "validate --part"  # as a manifest names it, and as a message tells what to run
PART_FILES: Final = "files.json"


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


def validate_part(
    corpus: str,
    raw: Path,
    out: Path,
    media: MediaParams,
    *,
    part: int,
    parts: int,
    workers: int | None = None,
    action_units: str | None = None,
) -> None:
    """Decode one part of a corpus's clips and publish it at ``out``, for ``join_parts``.

    ``out`` has ``files.json`` (file of the corpus -> SHA-256, MD5) and ``frames/`` with shards and a journal. A killed
    run continues where it stopped, as with ``validate``.

    Args:
        corpus: Name of the corpus.
        raw: Its folder.
        out: Folder to publish.
        media: Section ``media``.
        part: Number of the part, from 1 to ``parts``.
        parts: Number of parts.
        workers: Decoder processes; None for one per core.
        action_units: Backend for clips without an OpenFace table, as for `action_units.measurer`.

    Raises:
        UserError: There is no such part, or an input cannot be used.
    """
    if not 1 <= part <= parts:
        raise UserError(
            f"there is no part {part} of {parts}", place="--part", remedy=f"give 1/{parts} to {parts}/{parts}"
        )
    get_corpus(corpus)
    measuring = measurer(action_units)
    if not raw.is_dir():
        remedy = "run `dvc pull`, or set its root in params.yaml"
        raise UserError(f"the raw corpus {corpus!r} is not here", place=str(raw), remedy=remedy)
    plan = make_plan(corpus, raw, media, measuring)
    tasks = plan.tasks[_part_bound(plan, part - 1, parts) : _part_bound(plan, part, parts)]
    pairs = {name: sha256_and_md5(raw / name) for name in _part_files(plan, tasks, part, parts)}
    source = raw_source(raw, digest_of_pairs(pairs), name=f"{corpus} {part}/{parts}", step="raw part")
    measured = {"action_units": measuring.facts()} if measuring else {}
    settings = {"media": plain(media), "part": part, "parts": parts}
    scratch = scratch_of(out)
    with (
        publish(
            out, step=PART_STEP, name=corpus, params=settings, inputs={"raw": source}, code_of="validate",
        ) as draft,
        reporting_full_disk(out, scratch, len(tasks)),
    ):  # fmt: skip
        fingerprint = fingerprint_of(replace(plan, tasks=tasks), source, media, measured)
        label = f"validate {corpus} {part}/{parts}"
        resumed = extract(tasks, scratch, fingerprint=fingerprint, workers=workers, label=label)
        write_json(draft.path / PART_FILES, pairs)
        scratch.rename(draft.path / FOLDER)
        draft.count(rows_in=len(tasks), rows_out=len(tasks))
        draft.facts = {"reading": _reading_digest(plan.reading), **measured}
        draft.run = {"resumed_clips": resumed}


def join_parts(
    corpus: str, raw: Path, parts: Sequence[Path], out: Path, media: MediaParams, params: ValidationParams
) -> None:
    """Publish at ``out`` what ``validate`` would publish, byte for byte, from all parts of a corpus.

    Reads the annotations in ``raw`` and lists its files, but opens no clip.

    Args:
        corpus: Name of the corpus.
        raw: Its folder.
        parts: Outputs of `validate_part`, in any order.
        out: Folder to publish.
        media: Section ``media``.
        params: Section ``validation``.

    Raises:
        UserError: A part is missing, given twice, or made from other files, parameters or code; or as ``validate``
            does, too many rows are quarantined.
    """
    get_corpus(corpus)
    sources = _in_order(corpus, [open_source(part, made_by=PART_STEP) for part in parts], media)
    plan = make_plan(corpus, raw, media)
    pairs = _pairs(sources, plan, raw)
    measured = {key: value for key, value in sources[0].manifest["facts"].items() if key == "action_units"}
    source = raw_source(raw, digest_of_pairs(pairs), name=corpus)
    scratch = scratch_of(out)
    with (
        publishing(corpus, out, source, media, params) as draft,
        reporting_full_disk(out, scratch, len(plan.tasks)),
    ):
        join([s.path / FOLDER for s in sources], scratch, plan.tasks, label=f"join {corpus}")
        conclude(draft, plan, scratch, out, media, params, measured)


def _part_bound(plan: Plan, part: int, parts: int) -> int:
    return len(plan.tasks) * part // parts


def _part_files(plan: Plan, tasks: Sequence[Task], part: int, parts: int) -> list[str]:
    """Return the files a part hashes: its clips, and each ``parts``-th of the files that are no row's clip."""
    home = plan.raw.absolute()
    clips = {task.path.relative_to(home).as_posix() for task in plan.tasks}
    others = [name for name in files_below(plan.raw) if name not in clips]
    return sorted({task.path.relative_to(home).as_posix() for task in tasks} | set(others[part - 1 :: parts]))


def _reading_digest(reading: Reading) -> str:
    """Return a digest of all that a reader understood, so that parts of two versions are never joined."""
    return digest_of_value(asdict(reading))


def _in_order(corpus: str, sources: Sequence[Source], media: MediaParams) -> list[Source]:
    """Return the parts from first to last; raise UserError when they are not all the parts of one pass."""
    ordered = sorted(sources, key=lambda s: int(s.manifest["params"]["part"]))
    wanted = {"name": corpus, "media": plain(media), "code": code_digest("validate")}
    for number, source in enumerate(ordered, start=1):
        m = source.manifest
        part, parts = m["params"]["part"], m["params"]["parts"]
        if part != number:
            problem = f"part {number} is missing, or part {part} given twice"
            raise UserError(problem, place="--join", remedy=f"give each of the {parts} parts once")
        if parts != len(ordered):
            problem = f"{len(ordered)} of {parts} parts are given"
            raise UserError(problem, place="--join", remedy=f"give each of the {parts} parts once")
        made = {"name": m["name"], "media": m["params"]["media"], "code": m["code"]}
        if differ := [key for key in wanted if made[key] != wanted[key]]:
            problem = f"made with another {differ[0]}: {made[differ[0]]!r}, not {wanted[differ[0]]!r}"
            raise UserError(
                problem, place=str(source.path), remedy="make the part again, or join what belongs together"
            )
        for key in ("libraries", "facts"):
            if m[key] != ordered[0].manifest[key]:
                problem = f"{key} differ from those of part 1: {m[key]!r}, not {ordered[0].manifest[key]!r}"
                raise UserError(problem, place=str(source.path), remedy="make all parts with one installation")
    return ordered


def _pairs(sources: Sequence[Source], plan: Plan, raw: Path) -> Mapping[str, tuple[str, str]]:
    """Return the digests of all files of the corpus; raise UserError when the folder is not what the parts saw."""
    remedy = "the corpus changed between the parts: make them again"
    if sources[0].manifest["facts"]["reading"] != _reading_digest(plan.reading):
        raise UserError("its annotations are not those the parts were made from", place=str(raw), remedy=remedy)
    pairs: dict[str, tuple[str, str]] = {}
    for source in sources:
        for name, (sha, md5) in json.loads((source.path / PART_FILES).read_text("utf-8")).items():
            if pairs.setdefault(name, (sha, md5)) != (sha, md5):
                raise UserError("two parts saw different bytes", place=str(raw / name), remedy=remedy)
    if odd := sorted(pairs.keys() ^ set(files_below(raw))):
        raise UserError(f"{len(odd)} files came or went since, such as {odd[0]}", place=str(raw), remedy=remedy)
    return pairs
