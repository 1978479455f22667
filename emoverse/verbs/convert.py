"""``emoverse convert INTERNVL2_DIR OUT``: an original InternVL2 becomes a transformers-native model."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("source", type=Path, metavar="INTERNVL2_DIR", help="an original checkpoint, as downloaded")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make; the model is in OUT/model")


def main(args: argparse.Namespace) -> None:
    """Run the step."""
    from emoverse.models.convert.step import convert

    convert(args.source, args.out)
    print(f"{args.out / 'model'}: a transformers-native InternVL, no remote code")
