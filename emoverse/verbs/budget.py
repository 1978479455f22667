"""``emoverse budget``: count the rows that are too long for a model, before any GPU time is spent."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emoverse.verbs.common import add_params, params_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--amt", type=Path, required=True, metavar="DIR", help="output of build-amt")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="the model that will be trained")
    parser.add_argument("--json", action="store_true", help="print one JSON object, every over-long row listed")
    add_params(parser)


def main(args: argparse.Namespace) -> None:
    """Print each stage's table; raise UserError when a row is longer than its stage's ``max_length``."""
    from emoverse.budget import check_budgets, stage_budgets
    from emoverse.inference.load import model_folder

    params, model = params_of(args), model_folder(args.model)
    lengths = {"stage1": params.stage1.max_length, "stage2": params.stage2.max_length}
    found = stage_budgets(args.amt, model, params.media.frames, lengths)
    print(json.dumps(found, indent=2) if args.json else "\n".join(map(_table, found, found.values())))
    check_budgets(found)


def _table(stage: str, budget: Mapping[str, Any]) -> str:
    lines = [f"{stage}: max_length {budget['max_length']} tokens"]
    for name, one in budget["tasks"].items():
        sizes = f"median {one['median']:>7.1f}, longest {one['longest']:>5} tokens"
        lines.append(f"  {name:<12} {one['rows']:>7} rows, {sizes}, {one['over']} too long")
    return "\n".join(lines)
