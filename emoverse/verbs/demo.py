"""``emoverse demo``: a page on which an exported model is asked about one's own clip."""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path

from emoverse.errors import UserError
from emoverse.verbs.common import add_params, params_of
from emoverse.verbs.numbers import above_zero, count


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--model", type=Path, default=Path("data/onnx"), metavar="DIR", help="output of export (default data/onnx)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in; there is no password")
    parser.add_argument("--port", type=count(1, 65_535), help="default: a free one from 7860 on")
    parser.add_argument(
        "--validated",
        type=Path,
        default=Path("data/validated"),
        metavar="DIR",
        help="for examples (default data/validated)",
    )
    parser.add_argument("--max-seconds", type=above_zero, default=60.0, metavar="S", help="longest clip (default 60)")
    parser.add_argument("--max-megabytes", type=count(), default=64, metavar="MB", help="biggest upload (default 64)")
    add_params(parser)


def main(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("gradio is not installed", place="emoverse demo", remedy="install it: `pip install gradio`")
    from emoverse.predict.clips import Limits
    from emoverse.predict.predictor import load

    predictor = load(args.model, Limits(size=args.max_megabytes << 20, seconds=args.max_seconds))
    from emoverse.demo.examples import examples
    from emoverse.demo.page import serving

    found = examples(params_of(args), args.validated) if args.params.is_file() else []
    if not found:
        print("no corpus at hand: the page shows no examples", flush=True)
    try:
        with serving(predictor, found, host=args.host, port=args.port) as address:
            print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        print("closed", flush=True)
    except OSError as error:
        remedy = "give another --port, or none for a free one"
        raise UserError(str(error), place="--port", remedy=remedy) from error
