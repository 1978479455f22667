"""``emoverse fetch``: bring a DVC-tracked folder from its remote, checked."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Take what to fetch, from which revision, and where to."""
    parser.add_argument("path", metavar="PATH", help="a folder that DVC tracks, such as data/raw/MELD")
    parser.add_argument("--rev", default="", metavar="REV", help="git revision (default: the working tree)")
    parser.add_argument("--remote", default="", metavar="NAME", help="DVC remote (default: the repository's)")
    parser.add_argument("--repository", type=Path, default=Path(), metavar="DIR", help="the DVC repository")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, metavar="DIR", help="folder to put it in")
    where.add_argument(
        "--volume", type=Path, metavar="DIR", help="put it in DIR/MD5, where `submit --raw-volume` finds it"
    )


def main(args: argparse.Namespace) -> None:
    """Pull exactly what the repository names, and nothing if that is not to be had."""
    from emoverse.fetching.resolve import resolve
    from emoverse.fetching.step import keep

    tracked = resolve(args.path, repository=args.repository, revision=args.rev, remote=args.remote)
    if args.out:
        args.out.absolute().parent.mkdir(parents=True, exist_ok=True)
    folder = args.out or args.volume / tracked.md5
    facts = keep(tracked.md5, tracked.config, folder)
    print(f"{folder}: {facts['files']} files, {facts['bytes']:,} bytes, md5 {tracked.md5}")
