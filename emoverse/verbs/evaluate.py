"""``emoverse evaluate``: score a model on AMT's test sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from emoverse.verbs.common import add_params, params_of, validated_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="output of train, base-model or export"
    )
    parser.add_argument("--amt", type=Path, required=True, metavar="DIR", help="output of build-amt")
    parser.add_argument("--validated", type=Path, nargs="+", required=True, metavar="DIR", help="outputs of validate")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to publish")
    parser.add_argument("--engine", choices=("torch", "onnx", "vllm"), help="short for --set evaluate.engine=...")
    add_params(parser)


def main(args: argparse.Namespace) -> None:
    """Run the step."""
    from emoverse.evaluation.step import evaluate

    if args.engine:
        args.set = [*args.set, f"evaluate.engine={args.engine}"]
    params = params_of(args)
    evaluate(args.model, args.amt, validated_of(args, params), args.out, params.evaluate)
