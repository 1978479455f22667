"""``emoverse report``: write one self-contained page over all results."""

from __future__ import annotations

import argparse
from pathlib import Path

from emoverse.verbs.common import add_params, params_of, validated_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Take the output folders of all earlier steps and where the page goes."""
    parser.add_argument("--validated", type=Path, nargs="+", required=True, metavar="DIR", help="outputs of validate")
    parser.add_argument("--amt", type=Path, required=True, metavar="DIR", help="output of build-amt")
    parser.add_argument(
        "--stages", type=Path, nargs=3, required=True, metavar="DIR", help="base model, stage 1, stage 2"
    )
    parser.add_argument("--scores", type=Path, required=True, metavar="DIR", help="output of evaluate")
    parser.add_argument("--onnx", type=Path, required=True, metavar="DIR", help="output of export")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to publish")
    add_params(parser)


def main(args: argparse.Namespace) -> None:
    """Run the step."""
    params = params_of(args)
    from emoverse.report.step import report

    report(validated_of(args, params), args.amt, args.stages, args.scores, args.onnx, args.out)
    print(f"the page: {args.out / 'index.html'}")
