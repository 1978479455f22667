"""``emoverse run-local``: run the Kubeflow pipeline on this machine."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from emoverse.verbs.common import add_params, params_of
from emoverse.verbs.numbers import count
from emoverse.verbs.pipeline_options import add_images, images_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Take the parameters and the folder for outputs and cache."""
    add_params(parser)
    parser.add_argument("--root", type=Path, default=Path("scratch/kubeflow"), metavar="DIR", help="outputs and cache")
    parser.add_argument("--docker", action="store_true", help="run each step in its image (`make image`)")
    add_images(parser)
    parser.add_argument("--shards", type=count(), default=1, metavar="N", help="validate each corpus in N parts")
    parser.add_argument("--json", action="store_true", help="print digests and cache hits as JSON")


def main(args: argparse.Namespace) -> None:
    """Run every step that the cache does not hold, then print a line per step (the steps' own words: stderr)."""
    params = params_of(args)
    from pipelines.local import run

    with contextlib.redirect_stdout(sys.stderr):
        outcomes = run(
            params, base=Path(), root=args.root, docker=args.docker, images=images_of(args), shards=args.shards
        )
    hits = [one.name for one in outcomes if one.cached]
    if args.json:
        digests = {one.name.removeprefix("data/"): one.digest for one in outcomes if one.name.startswith("data/")}
        report = next(one.digest for one in outcomes if one.name == "reports")
        ran = [one.name for one in outcomes if not one.cached]
        print(json.dumps({"digests": digests, "report": report, "ran": ran, "cached": hits}, indent=2))
        return
    for one in outcomes:
        print(f"{'cached' if one.cached else 'ran':6}  {one.digest[:12]}  {one.name}")
    print(f"{len(hits)} of {len(outcomes)} steps came from the cache; outputs: {args.root / 'latest'}")
