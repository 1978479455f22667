"""Commands about models: profile, base-model, convert, budget, train, export, predict, demo."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from emoverse.cli.options import add_params, parameters_from, positive_number, validated_folders, whole_number
from emoverse.config import TINY, TrainParams, how_to_get, load_params
from emoverse.errors import UserError
from emoverse.profiles import TASKS_OF, all_texts, names, narrowing_notes, profile_text

if TYPE_CHECKING:
    from emoverse.serving.predictor import DialoguePrediction, Prediction


_DIALOGUE_TASKS = {"ecpe", "ecpe_semeval"}
_BAR = 24  # characters
PREEMPTED: Final = 75
"""Exit code after SIGTERM: a checkpoint is saved and the same command resumes from it (sysexits' EX_TEMPFAIL)."""


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
    from emoverse.models.convert import convert

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


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="output of train or base-model")
    parser.add_argument("--amt", type=Path, metavar="DIR", help="output of build-amt, for the rows to compare on")
    parser.add_argument("--validated", type=Path, nargs="+", default=[], metavar="DIR", help="outputs of validate")
    parser.add_argument("--scores", type=Path, metavar="DIR", help="output of evaluate, for the model card")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to publish")
    add_params(parser)


def run_export(args: argparse.Namespace) -> None:
    """Run the step."""
    from emoverse.export.export import export

    params = parameters_from(args)
    validated = validated_folders(args, params)
    export(args.model, args.out, params.export, amt=args.amt, validated=validated, scores=args.scores)


def _add_model_options(parser: argparse.ArgumentParser, *, seconds: int, megabytes: int) -> None:
    parser.add_argument(
        "--model", type=Path, default=Path("data/onnx"), metavar="DIR", help="output of export (default data/onnx)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                        help="where it runs (default auto: CUDA where available)")  # fmt: skip
    parser.add_argument("--max-seconds", type=positive_number, default=float(seconds), metavar="S",
                        help=f"longest clip (default {seconds})")  # fmt: skip
    parser.add_argument("--max-megabytes", type=whole_number(), default=megabytes, metavar="MB",
                        help=f"largest file (default {megabytes})")  # fmt: skip


def add_predict_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("input", type=Path, metavar="CLIP|DIALOGUE.json", help="a video file, or a dialogue")
    parser.add_argument("--text", default="", metavar="TEXT", help="what the person says in the clip")
    parser.add_argument("--task", action="append", default=[], metavar="TASK", help="msa, mer, fer or eri; repeatable")
    parser.add_argument("--precision", metavar="NAME", help="one of the export's (default: its first)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _add_model_options(parser, seconds=300, megabytes=256)


def run_predict(args: argparse.Namespace) -> None:
    """Print the answers."""
    from emoverse.serving.clips import Limits
    from emoverse.serving.predictor import load_predictor

    is_dialogue = args.input.suffix.lower() == ".json"
    if is_dialogue and (args.text or not _DIALOGUE_TASKS.issuperset(args.task)):
        option = f"--task {args.task[0]}" if args.task else "--text"
        remedy = "its JSON file has the text; use one of its clips for other questions"
        raise UserError("a dialogue is asked for emotions and cause pairs only", place=option, remedy=remedy)
    with contextlib.redirect_stdout(sys.stderr):  # the line with the device; standard output is for the answers
        limits = Limits(size=args.max_megabytes << 20, seconds=args.max_seconds)
        predictor = load_predictor(args.model, limits, args.precision, args.device)
    if is_dialogue:
        from emoverse.serving.predictor import predict_dialogue

        dialogue = predict_dialogue(predictor, args.input)
        as_json, table = dialogue.as_json(), dialogue_table(dialogue)
    else:
        prediction = predictor.predict_clip(args.input, args.text, args.task)
        as_json, table = prediction.as_json(), clip_table(prediction)
    print(json.dumps(as_json, ensure_ascii=False, indent=2, allow_nan=False) if args.json else table)


def clip_table(prediction: Prediction) -> str:
    """Return a clip's answers as text, probabilities as bars."""
    length = "unknown length" if prediction.seconds is None else f"{prediction.seconds:.1f} s"
    lines = [f"{prediction.clip}: {length}, {len(prediction.frames)} frames"]
    for answer in prediction.answers.values():
        lines.append(f"{answer.title}: {answer.reply or '(empty)'}")
        for name, share in answer.probabilities.items():
            lines.append(f"  {name:<10} {share:6.1%} {'#' * round(_BAR * share)}".rstrip())
    return "\n".join(lines)


def dialogue_table(prediction: DialoguePrediction) -> str:
    """Return a dialogue's emotions and cause pairs as text."""
    lines = []
    for number, (emotion, answer) in enumerate(zip(prediction.emotions, prediction.answers, strict=True), 1):
        source = f"{answer.probabilities.get(emotion, 0.0):.1%}" if answer else "given"
        lines.append(f"utterance {number}: {emotion} ({source})")
    for target, emotion, cause in prediction.pairs:
        lines.append(f"the {emotion} of utterance {target} comes from utterance {cause}")
    unreadable = [causes for causes in prediction.causes if causes.pairs is None]
    lines += [f"no pairs in the reply about {causes.target}: {causes.reply!r}" for causes in unreadable]
    return "\n".join(lines)


def add_demo_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 or :: lets other machines in; there is no password"
    )
    parser.add_argument("--port", type=whole_number(1, 65_535), help="default: a free one from 7860 on")
    parser.add_argument(
        "--root-path", metavar="PATH", help="path or address below which a reverse proxy publishes the page"
    )
    parser.add_argument("--validated", type=Path, default=Path("data/validated"), metavar="DIR",
                        help="for examples (default data/validated)")  # fmt: skip
    _add_model_options(parser, seconds=60, megabytes=64)
    add_params(parser)


def run_demo(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C, SIGTERM or SIGHUP."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("gradio is not installed", place="emoverse demo", remedy="install it: `pip install gradio`")
    from emoverse.serving.clips import Limits
    from emoverse.serving.demo import find_examples, serving
    from emoverse.serving.predictor import load_predictor

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        limits = Limits(size=args.max_megabytes << 20, seconds=args.max_seconds)
        predictor = load_predictor(args.model, limits, device=args.device)
        examples = find_examples(parameters_from(args), args.validated) if args.params.is_file() else []
        if not examples:
            print("no corpus found: the page shows no examples", flush=True)
        address = {"host": args.host, "port": args.port, "root_path": args.root_path}
        with serving(predictor, examples, **address) as url:
            print(f"open {url} in a browser; Ctrl-C ends it", flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        print("closed", flush=True)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
