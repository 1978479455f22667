"""Commands that prepare and train a model: profile, base-model, convert, budget, train."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from emoverse.cli.options import add_params, parameters_from, positive_number, validated_folders
from emoverse.config import TINY, TrainParams, how_to_get, load_params
from emoverse.errors import UserError
from emoverse.profiles import TASKS_OF, all_texts, names, narrowing_notes, profile_text


def add_profile_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("name", metavar="NAME", help=", ".join(names()))
    parser.add_argument("--corpora", nargs="+", default=(), metavar="NAME", help=f"only these: {', '.join(TASKS_OF)}")
    parser.add_argument("--out", type=Path, default=Path("params.yaml"), metavar="FILE", help="default params.yaml")
    parser.add_argument("--force", action="store_true", help="overwrite an edited file")


def run_profile(args: argparse.Namespace) -> None:
    """Write the profile's complete params.yaml and list missing prerequisites.

    Raises:
        UserError: The name is unknown, or the target contains edits, which would be lost.
    """
    text = profile_text(args.name, args.corpora)
    if args.out.exists() and not args.force and args.out.read_text("utf-8") not in all_texts():
        remedy = "keep a copy of it, then give --force, or write elsewhere with --out"
        raise UserError("contains your own edits, which would be lost", place=str(args.out), remedy=remedy)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text, "utf-8")
    print(f"{args.out}: profile {args.name}")
    for line in (*(narrowing_notes(args.name, args.corpora) if args.corpora else ()), *_missing(args.out)):
        print(line)


def _missing(path: Path) -> list[str]:
    params = load_params(path)
    missing = [
        f"missing: {corpus.root} (the corpus {name}: `dvc pull` or `dvc add` it, or set corpora.{name}.root)"
        for name, corpus in params.corpora.items()
        if not Path(corpus.root).is_dir()
    ]
    source = Path(params.base_model.source)
    if params.base_model.source != TINY and not source.exists():
        missing.append(f"missing: {source} (the base model: {how_to_get(source)})")
    return missing


def add_base_model_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to publish")
    add_params(parser)


def run_base_model(args: argparse.Namespace) -> None:
    """Run the step."""
    params = parameters_from(args)
    from emoverse.models.base_model import base_model

    base_model(args.out, params.base_model, params.media)


def add_convert_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("source", type=Path, metavar="INTERNVL_DIR", help="a checkpoint as downloaded: original or -hf")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make; the model is in OUT/model")


def run_convert(args: argparse.Namespace) -> None:
    """Run the step."""
    from emoverse.models.convert.convert import convert

    convert(args.source, args.out)
    print(f"{args.out / 'model'}: a transformers-native InternVL, no remote code")


def add_budget_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--amt", type=Path, required=True, metavar="DIR", help="output of build-amt")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="the model that will be trained")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object that lists every row that is too long"
    )
    add_params(parser)


def run_budget(args: argparse.Namespace) -> None:
    """Print each stage's table; raise UserError when a row is longer than its stage's ``max_length``."""
    from emoverse.budget import check_budgets, stage_budgets
    from emoverse.inference.engine import model_folder

    params, model = parameters_from(args), model_folder(args.model)
    lengths = {"stage1": params.stage1.max_length, "stage2": params.stage2.max_length}
    budgets = stage_budgets(args.amt, model, params.media.frames, lengths)
    table_of_all = "\n".join(map(_table, budgets, budgets.values()))
    print(json.dumps(budgets, indent=2, allow_nan=False) if args.json else table_of_all)
    check_budgets(budgets)


def _table(stage: str, budget: Mapping[str, Any]) -> str:
    lines = [f"{stage}: max_length {budget['max_length']} tokens"]
    for name, task in budget["tasks"].items():
        sizes = f"median {task['median']:>7.1f}, longest {task['longest']:>5} tokens"
        lines.append(f"  {name:<12} {task['rows']:>7} rows, {sizes}, {task['over']} too long")
    return "\n".join(lines)


PREEMPTED: Final = 75
"""Exit code after SIGTERM: a checkpoint is saved and the same command resumes from it (sysexits' EX_TEMPFAIL)."""


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of train."""
    parser.add_argument("--stage", required=True, choices=("stage1", "stage2"))
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="output of base-model or of a stage")
    parser.add_argument("--base", type=Path, metavar="DIR", help="the base model, for a stage with start: adapter")
    parser.add_argument("--amt", type=Path, required=True, metavar="DIR", help="output of build-amt")
    parser.add_argument("--validated", type=Path, nargs="+", required=True, metavar="DIR", help="outputs of validate")
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--out", type=Path, metavar="DIR", help="folder to publish")
    goal.add_argument("--dry-run", action="store_true", help="print an estimate, train nothing")
    parser.add_argument("--json", action="store_true", help="with --dry-run: print one JSON object")
    parser.add_argument(
        "--tflops", type=positive_number, metavar="N", help="with --dry-run: the device's rate, instead of measuring it"
    )
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", default=os.environ.get("EMOVERSE_TENSORBOARD"),
                        help="also write event files there (default: $EMOVERSE_TENSORBOARD)")  # fmt: skip
    add_params(parser)


def run_train(args: argparse.Namespace) -> None:
    """Run the step, or print an estimate of it."""
    if not args.dry_run and (args.json or args.tflops):
        option = "--json" if args.json else "--tflops"
        raise UserError("goes with --dry-run only", place=option, remedy="add --dry-run, or leave it out")
    params = parameters_from(args)
    stage, validated = getattr(params, args.stage), validated_folders(args, params)
    if args.dry_run:
        _dry_run(args, validated, stage, params.media.frames)
        return
    from emoverse.training.distributed import PreemptedError
    from emoverse.training.train import train

    try:
        train(args.stage, args.model, args.amt, validated, args.out, stage, args.tensorboard, args.base)
    except PreemptedError as stop:
        print(f"emoverse: {stop}", file=sys.stderr)
        sys.exit(PREEMPTED)


def _dry_run(args: argparse.Namespace, validated: list[Path], stage: TrainParams, frames: int) -> None:
    from emoverse.budget import check_budget, token_budget
    from emoverse.training.estimate import preview, table

    rows = [args.amt / f"{args.stage}.jsonl"]
    budget = token_budget(rows, args.model / "model", frames, stage.max_length)
    check_budget(budget, place=f"{args.stage}.max_length")
    rate = args.tflops * 1e12 if args.tflops else None
    estimate = preview(args.stage, args.model, args.amt, validated, stage, rate)
    result = {**estimate, "budget": budget}
    print(json.dumps(result, indent=2, allow_nan=False) if args.json else table(estimate, budget))
