"""``emoverse build-amt``: turn validated corpora into the AMT instruction dataset."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from emoverse.verbs.common import add_params, params_of, validated_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--validated", type=Path, nargs="+", required=True, metavar="DIR", help="folders of `validate`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to publish")
    for stage in ("stage1", "stage2"):
        text = f"take {stage} from an AMT file of the authors instead of the mixture"
        parser.add_argument(f"--{stage}", type=Path, metavar="JSON", help=text)
    add_params(parser)


def main(args: argparse.Namespace) -> None:
    """Build the dataset and print what came of it."""
    from emoverse.amt.step import build_amt
    from emoverse.manifest import read_manifest
    from emoverse.validation.amt import check_folder

    params = params_of(args)
    authors = {stage: path for stage in ("stage1", "stage2") if (path := getattr(args, stage)) is not None}
    build_amt(validated_of(args, params), args.out, params.amt, authors, check=check_folder)
    manifest = read_manifest(args.out, made_by="build-amt")
    rows = manifest["rows"]
    dropped = ", ".join(f"{reason} {count}" for reason, count in rows["dropped"].items()) or "none left out"
    print(f"{args.out}: {rows['out']} rows of {rows['in']} candidates; {dropped}")
    for warning in manifest["facts"]["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
