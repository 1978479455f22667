"""``emoverse base-model``: make the tiny InternVL2 the sample is trained on."""

from __future__ import annotations

import argparse
from pathlib import Path

from emoverse.verbs.common import add_params, params_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to publish")
    add_params(parser)


def main(args: argparse.Namespace) -> None:
    """Run the step."""
    params = params_of(args)
    from emoverse.models.step import base_model

    base_model(args.out, params.base_model, params.media)
