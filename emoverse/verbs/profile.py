"""``emoverse profile NAME``: choose all parameters by one word."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from emoverse.errors import UserError, did_you_mean

FOLDER: Final = Path(__file__).parents[1] / "profiles"


def names() -> list[str]:
    """Return the profiles there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("name", metavar="NAME", help=", ".join(names()))
    parser.add_argument("--out", type=Path, default=Path("params.yaml"), metavar="FILE", help="default params.yaml")
    parser.add_argument("--force", action="store_true", help="overwrite a file that somebody changed")


def main(args: argparse.Namespace) -> None:
    """Write the profile's complete params.yaml and say which of its inputs are not here yet.

    Raises UserError for an unknown name, and for a file that is no profile's text, which would be lost.
    """
    if args.name not in names():
        raise UserError(f"unknown profile {args.name!r}", remedy=did_you_mean(args.name, names()))
    known = {path.read_text("utf-8") for path in FOLDER.glob("*.yaml")}
    if args.out.exists() and not args.force and args.out.read_text("utf-8") not in known:
        remedy = "keep a copy of it, then give --force, or write elsewhere with --out"
        raise UserError("holds parameters of your own, which would be lost", place=str(args.out), remedy=remedy)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text((FOLDER / f"{args.name}.yaml").read_text("utf-8"), "utf-8")
    print(f"{args.out}: profile {args.name}")
    for line in _missing(args.out):
        print(line)


def _missing(path: Path) -> list[str]:
    from emoverse.params import load_params

    params = load_params(path)
    found = [
        f"not here yet: {one.root} (the corpus {name}: `dvc pull` or `dvc add` it, or set corpora.{name}.root)"
        for name, one in params.corpora.items()
        if not Path(one.root).is_dir()
    ]
    source = Path(params.base_model.source)
    if not source.exists():
        how = f"`hf download OpenGVLab/{source.name} --local-dir {source}` where there is network, then `dvc add` it"
        found.append(f"not here yet: {source} ({how})")
    return found
