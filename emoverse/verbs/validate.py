"""``emoverse validate``: check a raw corpus; keep utterances, frames and a quarantine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

from emoverse.errors import UserError
from emoverse.manifest import read_manifest
from emoverse.verbs.common import add_params, params_of
from emoverse.verbs.numbers import count

MOST: Final = 1024  # processes


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument(
        "--corpus", required=True, metavar="NAME", help="a reader of emoverse/corpora: meld, ecf, mosei"
    )
    parser.add_argument("--raw", required=True, type=Path, metavar="DIR", help="folder of the raw corpus")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to publish")
    parser.add_argument("--workers", type=count(1, MOST), metavar="N", help="decoder processes (default: one a core)")
    parser.add_argument(
        "--action-units", metavar="WHO", help="who measures clips without an OpenFace table: tables (nobody; default), "
        "openface:/path/to/FeatureExtraction, py-feat; also $EMOVERSE_ACTION_UNITS",
    )  # fmt: skip
    split = parser.add_mutually_exclusive_group()
    split.add_argument(
        "--part", type=_part, metavar="I/N", help="decode only part I of N of the clips, for --join (1/N to N/N)"
    )
    split.add_argument("--join", type=Path, nargs="+", metavar="DIR", help="join all N parts to the whole output")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_params(parser)


def main(args: argparse.Namespace) -> None:
    """Validate one corpus and print a short summary, also when too many of its rows were set aside."""
    params = params_of(args)
    from emoverse.validation.parts import join_parts, validate_part
    from emoverse.validation.step import TooManyQuarantined, validate

    measuring = {"workers": args.workers, "action_units": args.action_units}
    if args.part:
        part, parts = args.part
        validate_part(args.corpus, args.raw, args.out, params.media, part=part, parts=parts, **measuring)
        rows = read_manifest(args.out)["rows"]
        print(
            json.dumps(rows) if args.json else f"{args.corpus}: part {part} of {parts}, {rows['out']} clips: {args.out}"
        )
        return
    if args.join and (args.action_units or args.workers):
        raise UserError("no clip is read while joining", place="--join", remedy="give the option to each --part")
    try:
        if args.join:
            join_parts(args.corpus, args.raw, args.join, args.out, params.media, params.validation)
        else:
            validate(args.corpus, args.raw, args.out, params.media, params.validation, **measuring)
    except TooManyQuarantined as error:
        _print_summary(error.folder, as_json=args.json)  # what was wrong, before that it was too much
        raise
    _print_summary(args.out, as_json=args.json)


def _print_summary(folder: Path, *, as_json: bool) -> None:
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    print(json.dumps(summary, indent=2, ensure_ascii=False) if as_json else in_words(summary, folder), flush=True)


def in_words(summary: dict[str, Any], out: Path) -> str:
    """Return the summary as a few lines for a terminal."""
    rows, clips = summary["rows"], summary["clips"]
    splits = ", ".join(f"{name} {split['rows']}" for name, split in summary["splits"].items())
    lines = [
        f"{summary['corpus']}: {rows['in']} rows in, {rows['out']} out ({splits})",
        f"  clips: {clips['duration']['min']}-{clips['duration']['max']} s, {clips['with_audio']} with sound, "
        f"{summary['action_units']['clips']} with action units",
        f"  expectations: {summary['expectations_passed']} of {len(summary['expectations'])} met",
    ]
    lines += [f"  quarantined {count:5d}  {reason}" for reason, count in rows["dropped"].items()]
    units = summary["action_units"]
    if units["unusable_tables"]:
        lines.append(f"  without usable action units {units['unusable_tables']}, such as {units['examples'][0]}")
    if summary["unannotated_clips"]:
        lines.append(f"  left out    {summary['unannotated_clips']:5d}  clips nobody annotates")
    warned = [e for e in summary["expectations"] if not e["success"] and e["severity"] == "warning"]
    lines += [f"  warning: not so: {e['says']}" + (f" ({e['failed']} rows)" if e["failed"] else "") for e in warned]
    return "\n".join([*lines, f"  page: {out / 'page.html'}"])


def _part(word: str) -> tuple[int, int]:
    part, slash, parts = word.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError("give I/N with I from 1 to N, such as 1/4")
    return int(part), int(parts)
