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

# Command -> (module, one-line help). The module is imported when the command runs; it defines
# ``add_NAME_options(parser)`` and ``run_NAME(args)``.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "unpack": ("emoverse.cli.data", "unpack a corpus archive, and the archives in it, safely"),
    "profile": ("emoverse.cli.models", "write a complete params.yaml: the sample, InternVL2-4B, ..."),
    "validate": ("emoverse.cli.data", "check a raw corpus; write utterances, frames and a quarantine"),
    "build-amt": ("emoverse.cli.data", "turn utterances into the AMT instruction dataset"),
    "base-model": ("emoverse.cli.models", "make the tiny InternVL2 that the sample is trained on"),
    "convert": ("emoverse.cli.models", "turn an original InternVL2 checkpoint into a transformers-native one"),
    "train": ("emoverse.cli.models", "fine-tune one stage with ms-swift"),
    "evaluate": ("emoverse.cli.evaluation", "score a model on AMT's test sets"),
    "export": ("emoverse.cli.models", "write a model as ONNX graphs, checked against torch"),
    "predict": ("emoverse.cli.models", "run an exported model on your own clip or dialogue"),
    "demo": ("emoverse.cli.models", "serve a web page that runs an exported model on your own clip"),
    "ablate": ("emoverse.cli.evaluation", "train and score without a stage and without each task; a table"),
    "report": ("emoverse.cli.evaluation", "write one self-contained page over all results"),
    "lineage": ("emoverse.cli.evaluation", "print what an output was made from, back to the raw data"),
    "budget": ("emoverse.cli.models", "count the rows that are too long for a model"),
    "published": ("emoverse.cli.data", "write a test set exactly as the authors published it"),
    "audit": ("emoverse.cli.data", "find leakage and label conflicts in annotation files"),
    "score": ("emoverse.cli.evaluation", "score a predictions file"),
    "compare": ("emoverse.cli.evaluation", "compare two models on the same records"),
    "compile": ("emoverse.cli.pipeline", "compile the Kubeflow pipeline to YAML"),
    "fetch": ("emoverse.cli.data", "download a DVC-tracked folder from its remote and check it"),
    "submit": ("emoverse.cli.pipeline", "start a run of the Kubeflow pipeline on a cluster"),
    "watch": ("emoverse.cli.pipeline", "print a run's steps until it ends"),
    "retry": ("emoverse.cli.pipeline", "restart a run from the steps that were lost with their nodes"),
    "plan": ("emoverse.cli.pipeline", "print which steps will run and why, before a submission or `dvc repro`"),
    "doctor": ("emoverse.cli.doctor", "check this machine, and a cluster: one line per check, with a remedy"),
    "fingerprints": ("emoverse.cli.pipeline", "digest the code and libraries of each step, for dvc.yaml"),
    "run-local": ("emoverse.cli.pipeline", "run the Kubeflow pipeline on this machine"),
}
OWN_PACKAGES: Final = ("emoverse", "components", "pipelines")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: success. 2: the user's input or machine is at fault, reported in one line. 1: an internal error, its traceback
    in a file. 75: training was preempted. 130: Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # a path or a reply may contain what the terminal's encoding does not have
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    parser = _parser()
    if not command:
        parser.parse_args(arguments)
        parser.print_help()
        return 0
    if command not in COMMANDS:
        from emoverse.errors import did_you_mean

        parser.error(f"unknown command {command!r}; {did_you_mean(command, COMMANDS)}")
    debug = "--debug" in arguments
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    return guarded(lambda: _run(parser, command, arguments), debug=debug)


def _run(parser: _Parser, command: str, arguments: Sequence[str]) -> None:
    module = importlib.import_module(COMMANDS[command][0])
    function = command.replace("-", "_")
    getattr(module, f"add_{function}_options")(parser.commands[command])
    getattr(module, f"run_{function}")(parser.parse_args(arguments))


def guarded(run: Callable[[], Any], *, debug: bool) -> int:
    """Run a command; turn what it raises into one line on stderr and an exit code, or with ``debug`` a traceback."""
    from emoverse.errors import UserError, from_os_error

    try:
        run()
    except BrokenPipeError:
        return 0
    except UserError as error:
        return _report(error, debug, 2, str(error))
    except KeyboardInterrupt as error:
        if "RemoteTraceback" in type(error.__cause__).__name__:  # of a worker process, so it was not Ctrl-C
            return _report_internal(error, debug)
        return _report(error, debug, 130, "interrupted; run the same command again")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing == "emoverse":
            return _report_internal(error, debug)
        return _report(error, debug, 2, _not_installed(missing))
    except OSError as error:
        known = from_os_error(error)
        return _report(error, debug, 2, str(known)) if known else _report_internal(error, debug)
    except Exception as error:
        return _report_internal(error, debug)
    return 0


def _not_installed(package: str) -> str:
    if package in OWN_PACKAGES:
        return f"the folder {package}/ of the repository is needed; run this command in a checkout"
    extra = EXTRAS.get(package)
    how = f"pip install 'emoverse[{extra}]'" if extra else f"pip install {package}"
    return f"the package {package} is not installed; run `make setup` in a checkout, or `{how}`"


# Packages that `pip install emoverse` leaves out -> the extra of pyproject.toml that brings them.
EXTRAS: Final = {
    **dict.fromkeys(("torch", "torchvision", "transformers", "peft", "accelerate", "swift", "safetensors"), "train"),
    **dict.fromkeys(("onnx", "onnxscript"), "train"),
    **dict.fromkeys(("gradio", "onnxruntime"), "demo"),
    "deepspeed": "deepspeed",
    "feat": "py-feat",
}


def _report(error: BaseException, debug: bool, code: int, text: str) -> int:
    if debug:
        raise error
    print(f"emoverse: {text}", file=sys.stderr)
    return code


def _report_internal(error: BaseException, debug: bool) -> int:
    """Report an internal error; its traceback goes to a file, because the failure may be hard to repeat."""
    import tempfile
    import traceback

    if debug:
        raise error
    with tempfile.NamedTemporaryFile("w", prefix="emoverse-", suffix=".log", delete=False, encoding="utf-8") as log:
        traceback.print_exception(error, file=log)
    if isinstance(error, MemoryError):
        print(f"emoverse: out of memory; give the machine more or use smaller batches ({log.name})", file=sys.stderr)
        return 1
    what = f"{type(error).__name__}: {error}".partition("\n")[0][:500]
    print(f"emoverse: internal error: {what}; please report it with {log.name}", file=sys.stderr)
    return 1


class _Parser(argparse.ArgumentParser):
    commands: dict[str, argparse.ArgumentParser]


def _parser() -> _Parser:
    parser = _Parser(prog="emoverse", description="From raw emotional videos to a trained, scored, exported model.")
    parser.add_argument("--version", action="version", version=f"emoverse {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    group = parser.add_subparsers(title="commands", metavar="COMMAND OPTIONS", parser_class=argparse.ArgumentParser)
    parser.commands = {}
    for name, (_, text) in COMMANDS.items():
        sub = group.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        parser.commands[name] = sub
    return parser
