"""``emoverse lineage``: print what an output was made from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Take an output folder (or any file in one) and how to print."""
    parser.add_argument("path", type=Path, metavar="PATH", help="an output folder, or a file in one")
    parser.add_argument("--json", action="store_true", help="print the tree as JSON")
    parser.add_argument("--check", action="store_true", help="check every byte of the folder against its manifest too")
    parser.add_argument(
        "--repo",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="the checkout whose .dvc files and commit are named (default: here)",
    )


def main(args: argparse.Namespace) -> None:
    """Print the chain from an output back to the raw corpora and the .dvc files that name them."""
    from emoverse.errors import UserError
    from emoverse.lineage import as_json, as_lines, dvc_files, folder_of, made_by_other_code, revision, trace
    from emoverse.manifest import open_source

    folder = folder_of(args.path)
    if not args.repo.is_dir():
        raise UserError("no such folder", place=str(args.repo), remedy="give the checkout's root to --repo")
    if args.check:
        open_source(folder)
    top, tracked = trace(folder), dvc_files(args.repo)
    commit, other = revision(args.repo), made_by_other_code(top)
    if args.json:
        tree = as_json(top, tracked)
        print(json.dumps({"revision": commit, "made_by_other_code": other, **tree}, indent=2, ensure_ascii=False))
        return
    print("\n".join(as_lines(top, tracked)))
    print(f"\ncode: {_of_code(commit, other)}")
    if args.check:
        print("checked: every byte of the folder is as its manifest says")


def _of_code(commit: str, other: list[str]) -> str:
    here = f"this checkout's ({commit})" if commit else "this installation's"
    return f"{here}, except for {', '.join(other)}: other code made them" if other else f"all of it {here}"
