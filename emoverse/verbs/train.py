"""``emoverse train``: fine-tune one stage."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Final

from emoverse.errors import UserError
from emoverse.params import Params
from emoverse.verbs.common import add_params, params_of, validated_of
from emoverse.verbs.numbers import above_zero

PREEMPTED: Final = 75
"""Exit code after SIGTERM: a checkpoint is saved and the same command goes on from it (sysexits' EX_TEMPFAIL)."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--stage", required=True, choices=("stage1", "stage2"))
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="output of base-model or of a stage")
    parser.add_argument("--base", type=Path, metavar="DIR", help="the base model, for a stage with start: adapter")
    parser.add_argument("--amt", type=Path, required=True, metavar="DIR", help="output of build-amt")
    parser.add_argument("--validated", type=Path, nargs="+", required=True, metavar="DIR", help="outputs of validate")
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--out", type=Path, metavar="DIR")
    goal.add_argument("--dry-run", action="store_true", help="say what it would take, train nothing")
    parser.add_argument("--json", action="store_true", help="with --dry-run: print one JSON object")
    parser.add_argument(
        "--tflops", type=above_zero, metavar="N", help="with --dry-run: the device's rate, not measured here"
    )
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", default=os.environ.get("EMOVERSE_TENSORBOARD"),
                        help="write event files there, too (default: $EMOVERSE_TENSORBOARD)")  # fmt: skip
    add_params(parser)


def main(args: argparse.Namespace) -> None:
    """Run the step, or say what it would take."""
    if not args.dry_run and (args.json or args.tflops):
        option = "--json" if args.json else "--tflops"
        raise UserError("goes with --dry-run only", place=option, remedy="add --dry-run, or leave it out")
    params = params_of(args)
    if args.dry_run:
        _dry_run(args, params)
        return
    from emoverse.training.step import train
    from emoverse.training.stopping import PreemptedError

    try:
        validated, stage = validated_of(args, params), getattr(params, args.stage)
        train(args.stage, args.model, args.amt, validated, args.out, stage, args.tensorboard, args.base)
    except PreemptedError as stop:
        print(f"emoverse: {stop}", file=sys.stderr)
        sys.exit(PREEMPTED)


def _dry_run(args: argparse.Namespace, params: Params) -> None:
    from emoverse.budget import check_budget, token_budget
    from emoverse.training.preview import preview, table

    stage, validated = getattr(params, args.stage), validated_of(args, params)
    rows = [args.amt / f"{args.stage}.jsonl"]
    budget = token_budget(rows, args.model / "model", params.media.frames, stage.max_length)
    check_budget(budget, place=f"{args.stage}.max_length")
    rate = args.tflops * 1e12 if args.tflops else None
    found = preview(args.stage, args.model, args.amt, validated, stage, rate)
    print(json.dumps({**found, "budget": budget}, indent=2) if args.json else table(found, budget))
