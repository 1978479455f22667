"""``emoverse compile``: write the Kubeflow pipeline as YAML."""

from __future__ import annotations

import argparse
from pathlib import Path

from emoverse.verbs.common import add_params, params_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Take the parameters to preset, where to write, and the image the steps run in."""
    add_params(parser)
    parser.add_argument("--out", type=Path, default=Path("pipelines/emoverse.yaml"), metavar="FILE")
    parser.add_argument("--image", metavar="REF", help="container image of the steps, best by digest")


def main(args: argparse.Namespace) -> None:
    """Compile the pipeline, preset to the parameters and to the corpora's .dvc files."""
    params = params_of(args)
    from components.image import IMAGE
    from pipelines.compile import compile_to

    compile_to(args.out, params, image=args.image or IMAGE)
    print(f"wrote {args.out}")
