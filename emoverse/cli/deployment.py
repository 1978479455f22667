"""Commands that export a model and use the export: export, predict, demo."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from emoverse.cli.options import add_params, parameters_from, positive_number, validated_folders, whole_number
from emoverse.errors import UserError

if TYPE_CHECKING:
    from emoverse.serving.dialogues import DialoguePrediction
    from emoverse.serving.predictor import Prediction

_DIALOGUE_TASKS = {"ecpe", "ecpe_semeval"}
_BAR = 24  # characters


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
        from emoverse.serving.dialogues import predict_dialogue

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
