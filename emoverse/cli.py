"""``emoverse``: one verb per step. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from emoverse import __version__

# verb -> (module, one-line help). The module has ``arguments(parser)`` and ``main(args)`` and is imported when used.
VERBS: Final[dict[str, tuple[str, str]]] = {
    "unpack": ("emoverse.verbs.unpack", "unpack a corpus archive, and the archives in it, safely"),
    "profile": ("emoverse.verbs.profile", "choose all parameters by one word: the sample, InternVL2-4B, ..."),
    "validate": ("emoverse.verbs.validate", "check a raw corpus; keep utterances, frames and a quarantine"),
    "build-amt": ("emoverse.verbs.build_amt", "turn utterances into the AMT instruction dataset"),
    "base-model": ("emoverse.verbs.base_model", "make the tiny InternVL2 the sample is trained on"),
    "convert": ("emoverse.verbs.convert", "turn an original InternVL2 checkpoint into a transformers-native one"),
    "train": ("emoverse.verbs.train", "fine-tune one stage with ms-swift"),
    "evaluate": ("emoverse.verbs.evaluate", "score a model on AMT's test sets"),
    "export": ("emoverse.verbs.export", "write a model as ONNX graphs, checked against torch"),
    "predict": ("emoverse.verbs.predict", "ask an exported model about your own clip or dialogue"),
    "demo": ("emoverse.verbs.demo", "a page to ask an exported model about one's own clip"),
    "report": ("emoverse.verbs.report", "write one self-contained page over all results"),
    "lineage": ("emoverse.verbs.lineage", "print what an output was made from, back to the raw data"),
    "budget": ("emoverse.verbs.budget", "count the rows that are too long for a model"),
    "published": ("emoverse.verbs.published", "write a test set exactly as the authors published it"),
    "audit": ("emoverse.verbs.audit", "look for leakage and label conflicts in annotation files"),
    "score": ("emoverse.verbs.score", "score a predictions file"),
    "compare": ("emoverse.verbs.compare", "compare two models on the same records"),
    "compile": ("emoverse.verbs.compile", "compile the Kubeflow pipeline to YAML"),
    "fetch": ("emoverse.verbs.fetch", "bring a DVC-tracked folder from its remote, checked"),
    "submit": ("emoverse.verbs.submit", "start a run of the Kubeflow pipeline on a cluster"),
    "doctor": ("emoverse.verbs.doctor", "check this machine, and a cluster: ok or what to do, a line each"),
    "run-local": ("emoverse.verbs.run_local", "run the Kubeflow pipeline on this machine"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return 0, or 2 with one clear line when the user's input was at fault, 1 when the program was."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in words if not word.startswith("-")), "")
    parser, module = _parser(), None
    if verb in VERBS:
        module = importlib.import_module(VERBS[verb][0])
        module.arguments(parser.verbs[verb])
    args = parser.parse_args(words)
    if module is None:
        parser.print_help()
        return 0
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    return _guarded(module.main, args)


def _guarded(run: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    from emoverse.errors import UserError

    try:
        run(args)
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print("emoverse: stopped by Ctrl-C", file=sys.stderr)
        return 130  # as a shell says it: 128 + SIGINT
    except Exception as error:
        if args.debug:
            raise
        if isinstance(error, UserError):
            print(f"emoverse: {error}", file=sys.stderr)
            return 2
        if isinstance(error, OSError):
            print(f"emoverse: {_refused_by_the_system(error)}", file=sys.stderr)
            return 2
        print(f"emoverse: {_our_fault(error)}", file=sys.stderr)
        return 1
    return 0


def _refused_by_the_system(error: OSError) -> str:
    """Return one line about a file, folder or port that the system would not give."""
    place = f"{error.filename}: " if error.filename else ""
    return (
        f"{place}{error.strerror or error}; check the path, its rights and the disk (--debug shows where it happened)"
    )


def _our_fault(error: Exception) -> str:
    """Keep the traceback of what no check foresaw in a file, and return one line that names it."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="emoverse-", suffix=".txt", encoding="utf-8", delete=False) as kept:
        kept.write("".join(traceback.format_exception(error)))
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"a fault of the program, please report it ({what}); its traceback is in {kept.name}"


class _Parser(argparse.ArgumentParser):
    verbs: dict[str, argparse.ArgumentParser]


def _parser() -> _Parser:
    parser = _Parser(prog="emoverse", description="From raw emotional videos to a trained, scored, exported model.")
    parser.add_argument("--version", action="version", version=f"emoverse {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user error")
    group = parser.add_subparsers(title="verbs", metavar="VERB", parser_class=argparse.ArgumentParser)
    parser.verbs = {}
    for name, (_, text) in VERBS.items():
        sub = group.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        parser.verbs[name] = sub
    return parser


if __name__ == "__main__":
    sys.exit(main())
