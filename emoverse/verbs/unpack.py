"""``emoverse unpack``: unpack a corpus archive, and the archives in it, trusting nothing in it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("archive", type=Path, metavar="ARCHIVE", help=".tar, .tar.gz, .tgz, .tar.xz, .tar.bz2 or .zip")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")


def main(args: argparse.Namespace) -> None:
    """Unpack and say how much there was."""
    from emoverse.archives import unpack

    def say(place: str) -> None:
        print(f"unpack {place}", file=sys.stderr, flush=True)

    print(f"{args.out}: {unpack(args.archive, args.out, say=say):,} files")
