"""Validate a corpus in parts, on several machines, and join them to exactly what one machine would have made.

Part I of N decodes a contiguous share of the clips and hashes its share of the files; annotations are read, and clips
judged, where the parts are joined.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from emoverse.artifacts.digests import code_digest, digest_of_pairs, digest_of_value, files_below, sha256_and_md5
from emoverse.artifacts.manifest import Source, open_source, publish, raw_source, write_json
from emoverse.config import MediaParams, ValidationParams, plain
from emoverse.corpora import Reading, get_corpus
from emoverse.errors import UserError
from emoverse.media.action_units import measurer
from emoverse.media.extract import extract, join
from emoverse.media.frames import FOLDER
from emoverse.media.workers import Task
from emoverse.validation.plan import Plan, make_plan
from emoverse.validation.validate import conclude, fingerprint_of, publishing, reporting_full_disk, scratch_of

STEP: Final = "validate --part"  # as a manifest names it, and as a message tells what to run
FILES: Final = "files.json"


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
    tasks = plan.tasks[_bound(plan, part - 1, parts) : _bound(plan, part, parts)]
    pairs = {name: sha256_and_md5(raw / name) for name in _files(plan, tasks, part, parts)}
    source = raw_source(raw, digest_of_pairs(pairs), name=f"{corpus} {part}/{parts}", step="raw part")
    measured = {"action_units": measuring.facts()} if measuring else {}
    settings = {"media": plain(media), "part": part, "parts": parts}
    scratch = scratch_of(out)
    with (
        publish(
            out, step=STEP, name=corpus, params=settings, inputs={"raw": source}, code_of="validate",
        ) as draft,
        reporting_full_disk(out, scratch, len(tasks)),
    ):  # fmt: skip
        fingerprint = fingerprint_of(replace(plan, tasks=tasks), source, media, measured)
        label = f"validate {corpus} {part}/{parts}"
        resumed = extract(tasks, scratch, fingerprint=fingerprint, workers=workers, label=label)
        write_json(draft.path / FILES, pairs)
        scratch.rename(draft.path / FOLDER)
        draft.count(rows_in=len(tasks), rows_out=len(tasks))
        draft.facts = {"reading": _digest(plan.reading), **measured}
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
    sources = _in_order(corpus, [open_source(part, made_by=STEP) for part in parts], media)
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


def _bound(plan: Plan, part: int, parts: int) -> int:
    return len(plan.tasks) * part // parts


def _files(plan: Plan, tasks: Sequence[Task], part: int, parts: int) -> list[str]:
    """Return the files a part hashes: its clips, and each ``parts``-th of the files that are no row's clip."""
    home = plan.raw.absolute()
    clips = {task.path.relative_to(home).as_posix() for task in plan.tasks}
    others = [name for name in files_below(plan.raw) if name not in clips]
    return sorted({task.path.relative_to(home).as_posix() for task in tasks} | set(others[part - 1 :: parts]))


def _digest(reading: Reading) -> str:
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
    if sources[0].manifest["facts"]["reading"] != _digest(plan.reading):
        raise UserError("its annotations are not those the parts were made from", place=str(raw), remedy=remedy)
    pairs: dict[str, tuple[str, str]] = {}
    for source in sources:
        for name, (sha, md5) in json.loads((source.path / FILES).read_text("utf-8")).items():
            if pairs.setdefault(name, (sha, md5)) != (sha, md5):
                raise UserError("two parts saw different bytes", place=str(raw / name), remedy=remedy)
    if odd := sorted(pairs.keys() ^ set(files_below(raw))):
        raise UserError(f"{len(odd)} files came or went since, such as {odd[0]}", place=str(raw), remedy=remedy)
    return pairs
