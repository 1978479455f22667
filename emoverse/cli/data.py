"""Commands that prepare data: unpack, fetch, validate, build-amt, published, audit."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from emoverse.amt.records import media_path, published_record, write_records
from emoverse.artifacts.manifest import read_manifest
from emoverse.cli.options import add_params, parameters_from, validated_folders, whole_number
from emoverse.corpora import Reading, Split, Utterance, ecf, meld
from emoverse.errors import RowErrors, UserError
from emoverse.tasks import Context, Skipped, task


def add_unpack_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("archive", type=Path, metavar="ARCHIVE", help=".tar, .tar.gz, .tgz, .tar.xz, .tar.bz2 or .zip")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")


def run_unpack(args: argparse.Namespace) -> None:
    """Unpack an archive and print the number of files."""
    from emoverse.artifacts.archives import unpack

    def report(place: str) -> None:
        print(f"unpack {place}", file=sys.stderr, flush=True)

    print(f"{args.out}: {unpack(args.archive, args.out, report=report):,} files")


def add_fetch_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("path", metavar="PATH", help="a folder that DVC tracks, such as data/raw/MELD")
    parser.add_argument("--rev", default="", metavar="REV", help="git revision (default: the working tree)")
    parser.add_argument("--remote", default="", metavar="NAME", help="DVC remote (default: the repository's)")
    parser.add_argument("--repository", type=Path, default=Path(), metavar="DIR", help="the DVC repository")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, metavar="DIR", help="folder to write")
    where.add_argument("--volume", type=Path, metavar="DIR", help="write DIR/MD5, which `submit --raw-volume` expects")


def run_fetch(args: argparse.Namespace) -> None:
    """Download exactly the content that the repository names, or nothing."""
    from emoverse.fetching import fetch_once, resolve

    tracked = resolve(args.path, repository=args.repository, revision=args.rev, remote=args.remote)
    if args.out:
        args.out.absolute().parent.mkdir(parents=True, exist_ok=True)
    folder = args.out or args.volume / tracked.md5
    facts = fetch_once(tracked.md5, tracked.config, folder)
    print(f"{folder}: {facts['files']} files, {facts['bytes']:,} bytes, md5 {tracked.md5}")


MOST_WORKERS: Final = 1024


def add_validate_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--corpus", required=True, metavar="NAME", help="a reader of emoverse/corpora: meld, ecf, mosei"
    )
    parser.add_argument("--raw", required=True, type=Path, metavar="DIR", help="folder of the raw corpus")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to publish")
    parser.add_argument(
        "--workers", type=whole_number(1, MOST_WORKERS), metavar="N", help="decoder processes (default: one per core)"
    )
    parser.add_argument(
        "--action-units", metavar="BACKEND",
        help="backend for clips without an OpenFace table: tables (none, default), "
        "openface:/path/to/FeatureExtraction, py-feat; also $EMOVERSE_ACTION_UNITS",
    )  # fmt: skip
    split = parser.add_mutually_exclusive_group()
    split.add_argument(
        "--part", type=_part, metavar="I/N", help="decode only part I of N of the clips, for --join (1/N to N/N)"
    )
    split.add_argument("--join", type=Path, nargs="+", metavar="DIR", help="join all N parts into the complete output")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_params(parser)


def run_validate(args: argparse.Namespace) -> None:
    """Validate one corpus and print a short summary, also when too many of its rows were quarantined."""
    params = parameters_from(args)
    from emoverse.validation.validate import TooManyQuarantined, join_parts, validate, validate_part

    measuring = {"workers": args.workers, "action_units": args.action_units}
    if args.part:
        part, parts = args.part
        validate_part(args.corpus, args.raw, args.out, params.media, part=part, parts=parts, **measuring)
        rows = read_manifest(args.out)["rows"]
        line = f"{args.corpus}: part {part} of {parts}, {rows['out']} clips: {args.out}"
        print(json.dumps(rows, allow_nan=False) if args.json else line)
        return
    if args.join and (args.action_units or args.workers):
        raise UserError("no clip is read while joining", place="--join", remedy="give the option to each --part")
    try:
        if args.join:
            join_parts(args.corpus, args.raw, args.join, args.out, params.media, params.validation)
        else:
            validate(args.corpus, args.raw, args.out, params.media, params.validation, **measuring)
    except TooManyQuarantined as error:
        _print_summary(error.folder, as_json=args.json)  # the reasons first, then that there are too many
        raise
    _print_summary(args.out, as_json=args.json)


def _print_summary(folder: Path, *, as_json: bool) -> None:
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False), flush=True)
    else:
        print(summary_text(summary, folder), flush=True)


def summary_text(summary: dict[str, Any], out: Path) -> str:
    """Return the summary as a few lines of text."""
    rows, clips = summary["rows"], summary["clips"]
    splits = ", ".join(f"{name} {split['rows']}" for name, split in summary["splits"].items())
    lines = [
        f"{summary['corpus']}: {rows['in']} rows in, {rows['out']} out ({splits})",
        f"  clips: {clips['duration']['min']}-{clips['duration']['max']} s, {clips['with_audio']} with sound, "
        f"{summary['action_units']['clips']} with action units",
        f"  expectations: {summary['expectations_passed']} of {len(summary['expectations'])} met",
    ]
    lines += [f"  quarantined {number:5d}  {reason}" for reason, number in rows["dropped"].items()]
    units = summary["action_units"]
    if units["unusable_tables"]:
        lines.append(f"  without usable action units {units['unusable_tables']}, such as {units['examples'][0]}")
    if summary["unannotated_clips"]:
        lines.append(f"  left out    {summary['unannotated_clips']:5d}  clips without an annotation")
    warned = [e for e in summary["expectations"] if not e["success"] and e["severity"] == "warning"]
    lines += [_warning(check, summary["warnings"].get(check["reason"])) for check in warned]
    return "\n".join([*lines, f"  page: {out / 'page.html'}"])


def _warning(check: dict[str, Any], rows: dict[str, Any] | None) -> str:
    """Return a line about a check that only warns: how many rows failed it, and the first with what was measured."""
    if not rows:
        return f"  warning            {check['reason']} (expected: {check['says'].rstrip('.')})"
    first = rows["rows"][0]
    return f"  warning     {rows['count']:5d}  {check['reason']} (first: {first['utterance_id']} {first['measured']})"


def _part(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError("give I/N with I from 1 to N, such as 1/4")
    return int(part), int(parts)


def add_build_amt_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--validated", type=Path, nargs="+", required=True, metavar="DIR", help="folders of `validate`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to publish")
    for stage in ("stage1", "stage2"):
        text = f"take {stage} from an AMT file of the authors instead of the mixture"
        parser.add_argument(f"--{stage}", type=Path, metavar="JSON", help=text)
    add_params(parser)


def run_build_amt(args: argparse.Namespace) -> None:
    """Build the dataset and print the number of rows and warnings."""
    from emoverse.amt.build_amt import build_amt
    from emoverse.artifacts.manifest import read_manifest
    from emoverse.validation.amt_rows import check_folder

    params = parameters_from(args)
    authors = {stage: path for stage in ("stage1", "stage2") if (path := getattr(args, stage)) is not None}
    build_amt(validated_folders(args, params), args.out, params.amt, authors, check=check_folder)
    manifest = read_manifest(args.out, made_by="build-amt")
    rows = manifest["rows"]
    dropped = ", ".join(f"{reason} {number}" for reason, number in rows["dropped"].items()) or "none left out"
    print(f"{args.out}: {rows['out']} rows of {rows['in']} candidates; {dropped}")
    for warning in manifest["facts"]["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)


_TASK: Final = {"meld": "mer", "ecf": "ecpe"}


def add_published_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("corpus", choices=sorted(_TASK))
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="MELD's CSV or ECF's JSON")
    parser.add_argument("--split", choices=("train", "validation", "test"), required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")


def run_published(args: argparse.Namespace) -> None:
    """Write a test set in the authors' form.

    Raises:
        RowErrors: An annotation is bad; a missing record would go unnoticed.
        UserError: The file is that of another split, or has no utterances.
    """
    if args.corpus == "ecf" and args.split not in ecf.FILES:
        raise UserError("ECF has no validation split", place="--split", remedy="give train or test")
    _check_split(args.annotations, args.split, meld.FILES if args.corpus == "meld" else ecf.FILES)
    read = meld.read_split if args.corpus == "meld" else ecf.read_split
    reading: Reading = read(args.annotations, args.split)
    if reading.quarantined:
        folder = args.annotations.parent
        problems = [row.message(folder) for row in reading.quarantined]
        raise RowErrors(problems, remedy="correct the rows; a published file has all of them")
    if not reading.utterances:
        raise UserError("has no utterances", place=str(args.annotations), remedy="fetch the file again")
    write_records(args.out, _records(reading.utterances, _TASK[args.corpus]))


def _check_split(path: Path, split: Split, files: Mapping[Split, tuple[str, str]]) -> None:
    """Raise UserError for a file with another split's name: its ids and clips would be wrong."""
    own = next((other for other, (name, _) in files.items() if name == path.name), split)
    if own != split:
        remedy = f"give --split {own}, or {files[split][0]}"
        raise UserError(f"is the {own} split, not {split}", place=str(path), remedy=remedy)


def _records(utterances: list[Utterance], name: str) -> Iterator[bytes]:
    """Yield the records in the order of the annotation file."""
    dialogues: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        dialogues.setdefault(utterance.dialogue_id, []).append(utterance)
    for utterance in utterances:
        context = Context(utterance=utterance, dialogue=dialogues[utterance.dialogue_id], verbatim=True)
        question = task(name).question(context)
        if not isinstance(question, Skipped):
            path = media_path(utterance, still=False)
            yield published_record(name, question.text, question.answer, path, still=False)


def add_audit_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--meld", type=Path, required=True, metavar="DIR", help="folder of MELD's three CSVs")
    parser.add_argument("--ecf-train", type=Path, required=True, metavar="JSON", help="ECF's Subtask_2_train.json")
    parser.add_argument("--ecf-mapping", type=Path, required=True, metavar="FILE", help="all_data_pair_ECFvsMELD.txt")
    parser.add_argument("--json", action="store_true", help="print one JSON object, every conflict listed")


def run_audit(args: argparse.Namespace) -> None:
    """Print the report."""
    from emoverse.amt.audit import audit_annotations

    report = audit_annotations(args.meld, args.ecf_train, args.ecf_mapping)
    print(json.dumps(report, indent=2, sort_keys=True, allow_nan=False) if args.json else _plain(report))


def _plain(report: dict[str, Any]) -> str:
    leakage, conflicts = report["leakage"], report["conflicts"]
    lines = [
        f"MELD test utterances in ECF train: {leakage['meld_test_utterances']}",
        f"without the {leakage['dropped_conversations']} conversations that show one: "
        f"{leakage['kept_conversations']} conversations, {leakage['kept_targets']} ECPE targets "
        f"({leakage['kept_targets_with_cause']} with a cause)",
        f"shared utterances: {conflicts['shared_utterances']}, labelled differently: {conflicts['different_emotion']}",
        *(f"  {kind}: {number}" for kind, number in conflicts["commonest"].items()),
    ]
    return "\n".join(lines)
