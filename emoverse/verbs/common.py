"""Options that several verbs share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from emoverse.errors import UserError
from emoverse.params import Params, load_params


def add_params(parser: argparse.ArgumentParser) -> None:
    """Add ``--params FILE`` and ``--set section.key=value`` (repeatable)."""
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a parameter")


def params_of(args: argparse.Namespace) -> Params:
    """Read the parameters the verb was given."""
    return load_params(args.params, overrides_of(args.set))


def overrides_of(words: list[str]) -> dict[str, Any]:
    """Turn ``section.key=value`` words into a mapping; values are read as YAML."""
    import yaml

    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or "." not in key:
            raise UserError(f"--set {word!r} is not section.key=value", remedy="for example --set stage1.epochs=1")
        found[key] = yaml.safe_load(value)
    return found
