"""Options that several verbs share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from emoverse.digests import MANIFEST
from emoverse.errors import UserError
from emoverse.params import Params, load_params
from emoverse.yaml_text import read_yaml


def add_params(parser: argparse.ArgumentParser) -> None:
    """Add ``--params FILE`` and ``--set section.key=value`` (repeatable)."""
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="default params.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a parameter")


def params_of(args: argparse.Namespace) -> Params:
    """Read the parameters the verb was given."""
    return load_params(args.params, overrides_of(args.set))


def validated_of(args: argparse.Namespace, params: Params) -> list[Path]:
    """Return the outputs of validate that ``--validated`` names.

    A folder that is no output itself stands for the outputs in it, one for each corpus of params.yaml: not for all
    that lies there, for a corpus taken out of params.yaml leaves its folder behind. The notes ``.run.json`` beside the
    outputs, which a shell's ``*`` gives too, are passed over.
    """
    found: list[Path] = []
    for folder in args.validated:
        if folder.name.endswith(".run.json"):
            continue
        holds_many = folder.is_dir() and not (folder / MANIFEST).is_file()
        found += [folder / name for name in params.corpora] if holds_many else [folder]
    return found


def overrides_of(words: list[str]) -> dict[str, Any]:
    """Turn ``section.key=value`` words into a mapping; values are read as YAML."""
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or "." not in key:
            raise UserError(f"--set {word!r} is not section.key=value", remedy="for example --set stage1.epochs=1")
        try:
            found[key] = read_yaml(value)
        except yaml.YAMLError:
            remedy = "quote it, for example --set 'amt.system=\"Answer: briefly\"'"
            raise UserError(f"--set {word!r}: the value is not valid YAML", remedy=remedy) from None
    return found
