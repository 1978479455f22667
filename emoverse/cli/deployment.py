"""Commands that export a model and use the export: export, predict, demo."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from emoverse.cli.options import add_params, parameters_from, positive_number, validated_folders, whole_number
from emoverse.errors import UserError

if TYPE_CHECKING:
    from emoverse.serving.dialogues import DialoguePrediction
    from emoverse.serving.predictor import Prediction


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="output of train or base-model")
    parser.add_argument("--amt", type=Path, metavar="DIR", help="output of build-amt, whose rows the comparison uses")
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


OF_DIALOGUES = {"ecpe", "ecpe_semeval"}
_BAR = 24  # characters


def add_predict_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("input", type=Path, metavar="CLIP|DIALOGUE.json", help="a video file, or a dialogue")
    parser.add_argument("--text", default="", metavar="TEXT", help="what the person says in the clip")
    parser.add_argument("--task", action="append", default=[], metavar="TASK", help="msa, mer, fer or eri; repeatable")
    parser.add_argument(
        "--model", type=Path, default=Path("data/onnx"), metavar="DIR", help="output of export (default data/onnx)"
    )
    parser.add_argument("--precision", metavar="NAME", help="one of the export's (default: its first)")
    parser.add_argument(
        "--max-seconds", type=positive_number, default=300.0, metavar="S", help="longest clip (default 300)"
    )
    parser.add_argument(
        "--max-megabytes", type=whole_number(), default=256, metavar="MB", help="biggest file (default 256)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run_predict(args: argparse.Namespace) -> None:
    """Print the answers."""
    from emoverse.serving.clips import Limits
    from emoverse.serving.predictor import load

    of_dialogue = args.input.suffix.lower() == ".json"
    if of_dialogue and (args.text or not OF_DIALOGUES.issuperset(args.task)):
        named = f"--task {args.task[0]}" if args.task else "--text"
        remedy = "its JSON file contains the text; give one of its clips for that"
        raise UserError("a dialogue gives emotions and cause pairs only", place=named, remedy=remedy)
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the answers
        limits = Limits(size=args.max_megabytes << 20, seconds=args.max_seconds)
        predictor = load(args.model, limits, args.precision)
    if of_dialogue:
        from emoverse.serving.dialogues import ask_dialogue

        dialogue = ask_dialogue(predictor, args.input)
        _print(dialogue.as_json(), as_table_of_pairs(dialogue), args.json)
    else:
        prediction = predictor.clip(args.input, args.text, args.task)
        _print(prediction.as_json(), as_table(prediction), args.json)


def _print(tree: object, table: str, as_json: bool) -> None:
    print(json.dumps(tree, ensure_ascii=False, indent=2) if as_json else table)


def as_table(prediction: Prediction) -> str:
    """Return a clip's answers as text, probabilities as bars."""
    lines = [f"{prediction.clip}: {prediction.seconds:.1f} s, {len(prediction.frames)} frames"]
    for answer in prediction.answers.values():
        lines.append(f"{answer.title}: {answer.reply or '(empty reply)'}")
        for name, share in answer.probabilities.items():
            lines.append(f"  {name:<10} {share:6.1%} {'#' * round(_BAR * share)}".rstrip())
    return "\n".join(lines)


def as_table_of_pairs(prediction: DialoguePrediction) -> str:
    """Return a dialogue's emotions and cause pairs as text."""
    lines = []
    for number, (emotion, answer) in enumerate(zip(prediction.emotions, prediction.answers, strict=True), 1):
        how = f"{answer.probabilities.get(emotion, 0.0):.1%}" if answer else "given"
        lines.append(f"utterance {number}: {emotion} ({how})")
    for target, emotion, cause in prediction.pairs:
        lines.append(f"the {emotion} of utterance {target} comes from utterance {cause}")
    lines += [
        f"no pairs in the reply about {cause.target}: {cause.reply!r}"
        for cause in prediction.causes
        if cause.pairs is None
    ]
    return "\n".join(lines)


def add_demo_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--model", type=Path, default=Path("data/onnx"), metavar="DIR", help="output of export (default data/onnx)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 accepts other machines; there is no password")
    parser.add_argument("--port", type=whole_number(1, 65_535), help="default: the first free port from 7860")
    parser.add_argument(
        "--validated",
        type=Path,
        default=Path("data/validated"),
        metavar="DIR",
        help="for examples (default data/validated)",
    )
    parser.add_argument(
        "--max-seconds", type=positive_number, default=60.0, metavar="S", help="longest clip (default 60)"
    )
    parser.add_argument(
        "--max-megabytes", type=whole_number(), default=64, metavar="MB", help="biggest upload (default 64)"
    )
    add_params(parser)


def run_demo(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("gradio is not installed", place="emoverse demo", remedy="install it: `pip install gradio`")
    from emoverse.serving.clips import Limits
    from emoverse.serving.predictor import load

    predictor = load(args.model, Limits(size=args.max_megabytes << 20, seconds=args.max_seconds))
    from emoverse.serving.demo import examples, serving

    shown = examples(parameters_from(args), args.validated) if args.params.is_file() else []
    if not shown:
        print("no validated corpus: the page shows no examples", flush=True)
    try:
        with serving(predictor, shown, host=args.host, port=args.port) as address:
            print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        print("closed", flush=True)
    except OSError as error:
        remedy = "give another --port, or none for a free one"
        raise UserError(str(error), place="--port", remedy=remedy) from error
