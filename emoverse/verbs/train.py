"""``emoverse train``: fine-tune one stage."""

from __future__ import annotations

import argparse
import os
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
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", default=os.environ.get("EMOVERSE_TENSORBOARD"),
                        help="write event files there, too (default: $EMOVERSE_TENSORBOARD)")  # fmt: skip
    add_params(parser)


def main(args: argparse.Namespace) -> None:
    """Run the step."""
    params = params_of(args)
    from emoverse.training.step import train
    from emoverse.training.watch import PreemptedError

    try:
        validated, stage = validated_of(args, params), getattr(params, args.stage)
        train(args.stage, args.model, args.amt, validated, args.out, stage, args.tensorboard)
    except PreemptedError as stop:
        print(f"emoverse: {stop}", file=sys.stderr)
        sys.exit(PREEMPTED)
