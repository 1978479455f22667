"""``emoverse train``: fine-tune one stage."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from emoverse.verbs.common import add_params, params_of, validated_of

PREEMPTED: Final = 75
"""Exit code after SIGTERM: a checkpoint is saved and the same command goes on from it (sysexits' EX_TEMPFAIL)."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--stage", required=True, choices=("stage1", "stage2"))
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="output of base-model or of a stage")
    parser.add_argument("--amt", type=Path, required=True, metavar="DIR", help="output of build-amt")
    parser.add_argument("--validated", type=Path, nargs="+", required=True, metavar="DIR", help="outputs of validate")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    add_params(parser)


def main(args: argparse.Namespace) -> None:
    """Run the step."""
    params = params_of(args)
    from emoverse.training.step import train
    from emoverse.training.watch import PreemptedError

    try:
        train(args.stage, args.model, args.amt, validated_of(args, params), args.out, getattr(params, args.stage))
    except PreemptedError as stop:
        print(f"emoverse: {stop}", file=sys.stderr)
        sys.exit(PREEMPTED)
