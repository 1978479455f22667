"""Parse the command line: one command per step, exit codes, help. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from emoverse import __version__

# command -> (module, one-line help). The module is imported when the command runs and defines
# ``add_NAME_options(parser)``
# and ``run_NAME(args)``.
VERBS: Final[dict[str, tuple[str, str]]] = {
    "unpack": ("emoverse.cli.data", "unpack a corpus archive, and the archives in it, safely"),
    "profile": ("emoverse.cli.training", "choose all parameters by one word: the sample, InternVL2-4B, ..."),
    "validate": ("emoverse.cli.data", "check a raw corpus; keep utterances, frames and a quarantine"),
    "build-amt": ("emoverse.cli.data", "turn utterances into the AMT instruction dataset"),
    "base-model": ("emoverse.cli.training", "make the tiny InternVL2 the sample is trained on"),
    "convert": ("emoverse.cli.training", "turn an original InternVL2 checkpoint into a transformers-native one"),
    "train": ("emoverse.cli.training", "fine-tune one stage with ms-swift"),
    "evaluate": ("emoverse.cli.evaluation", "score a model on AMT's test sets"),
    "export": ("emoverse.cli.deployment", "write a model as ONNX graphs, checked against torch"),
    "predict": ("emoverse.cli.deployment", "ask an exported model about your own clip or dialogue"),
    "demo": ("emoverse.cli.deployment", "a page to ask an exported model about one's own clip"),
    "report": ("emoverse.cli.evaluation", "write one self-contained page over all results"),
    "lineage": ("emoverse.cli.evaluation", "print what an output was made from, back to the raw data"),
    "budget": ("emoverse.cli.training", "count the rows that are too long for a model"),
    "published": ("emoverse.cli.data", "write a test set exactly as the authors published it"),
    "audit": ("emoverse.cli.data", "look for leakage and label conflicts in annotation files"),
    "score": ("emoverse.cli.evaluation", "score a predictions file"),
    "compare": ("emoverse.cli.evaluation", "compare two models on the same records"),
    "compile": ("emoverse.cli.pipeline", "compile the Kubeflow pipeline to YAML"),
    "fetch": ("emoverse.cli.data", "bring a DVC-tracked folder from its remote, checked"),
    "submit": ("emoverse.cli.pipeline", "start a run of the Kubeflow pipeline on a cluster"),
    "doctor": ("emoverse.cli.pipeline", "check this machine, and a cluster: ok or what to do, a line each"),
    "fingerprints": ("emoverse.cli.pipeline", "digest the code and libraries of each step, for dvc.yaml"),
    "run-local": ("emoverse.cli.pipeline", "run the Kubeflow pipeline on this machine"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return 0, or 2 with one clear line when the user's input was at fault."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # a path or a reply may hold what the terminal's encoding cannot say
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    verb = next((word for word in words if not word.startswith("-")), "")
    parser, module = _parser(), None
    if verb and verb not in VERBS:
        from emoverse.errors import did_you_mean

        parser.error(f"unknown verb {verb!r}; {did_you_mean(verb, VERBS)}")
    if verb in VERBS:
        module = importlib.import_module(VERBS[verb][0])
        getattr(module, f"add_{verb.replace('-', '_')}_options")(parser.verbs[verb])
    args = parser.parse_args(words)
    if module is None:
        parser.print_help()
        return 0
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    return _guarded(getattr(module, f"run_{verb.replace('-', '_')}"), args)


def _guarded(run: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> int:
    """Run a verb; turn what it raises into one line on stderr and an exit code, and only ``--debug`` into a traceback.

    2: the user's input or machine was at fault; 130: Ctrl-C; 1: a fault of this program, its traceback kept in a file.
    """
    from emoverse.errors import UserError, of_system

    try:
        run(args)
    except UserError as error:
        return _say(error, args, 2)
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt as error:
        return _say(error, args, 130, "interrupted; run the same command again")
    except OSError as error:
        said = of_system(error)
        return _say(error, args, 2, str(said)) if said else _internal(error, args)
    except Exception as error:
        return _internal(error, args)
    return 0


def _say(error: BaseException, args: argparse.Namespace, code: int, text: str = "") -> int:
    """Print one line; raise the error itself where ``--debug`` asks for it."""
    if args.debug:
        raise error
    print(f"emoverse: {text or error}", file=sys.stderr)
    return code


def _internal(error: Exception, args: argparse.Namespace) -> int:
    """Say that the fault is ours; the traceback goes to a file, for training runs may not come by a second time."""
    import tempfile
    import traceback

    if args.debug:
        raise error
    with tempfile.NamedTemporaryFile("w", prefix="emoverse-", suffix=".log", delete=False, encoding="utf-8") as log:
        traceback.print_exception(error, file=log)
    what = f"{type(error).__name__}: {error}".partition("\n")[0][:500]
    print(f"emoverse: a fault of this program, not of yours: {what}; please report {log.name}", file=sys.stderr)
    return 1


class _Parser(argparse.ArgumentParser):
    verbs: dict[str, argparse.ArgumentParser]


def _parser() -> _Parser:
    parser = _Parser(prog="emoverse", description="From raw emotional videos to a trained, scored, exported model.")
    parser.add_argument("--version", action="version", version=f"emoverse {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user error")
    group = parser.add_subparsers(title="verbs", metavar="VERB OPTIONS", parser_class=argparse.ArgumentParser)
    parser.verbs = {}
    for name, (_, text) in VERBS.items():
        sub = group.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        parser.verbs[name] = sub
    return parser
