"""``emoverse export``: write a model as ONNX graphs, checked against torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from emoverse.verbs.common import add_params, params_of, validated_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="output of train or base-model")
    parser.add_argument("--amt", type=Path, metavar="DIR", help="output of build-amt, for the rows to compare on")
    parser.add_argument("--validated", type=Path, nargs="+", default=[], metavar="DIR", help="outputs of validate")
    parser.add_argument("--scores", type=Path, metavar="DIR", help="output of evaluate, for the model card")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to publish")
    add_params(parser)


def main(args: argparse.Namespace) -> None:
    """Run the step."""
    from emoverse.export.step import export

    params = params_of(args)
    validated = validated_of(args, params)
    export(args.model, args.out, params.export, amt=args.amt, validated=validated, scores=args.scores)
