"""``emoverse compile``: write the Kubeflow pipeline as YAML."""

from __future__ import annotations

import argparse
from pathlib import Path

from emoverse.lineage import revision
from emoverse.verbs.common import add_params, params_of
from emoverse.verbs.pipeline_options import add_images, add_variants, options_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Take the parameters to preset, where to write, the images, the cluster and the variant."""
    add_params(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("pipelines/emoverse.yaml"),
        metavar="FILE",
        help="default pipelines/emoverse.yaml",
    )
    add_images(parser)
    add_variants(parser)


def main(args: argparse.Namespace) -> None:
    """Compile the pipeline, preset to the parameters and to the corpora's .dvc files."""
    params = params_of(args)
    # A file for one cluster says which commit it was compiled from; the committed one cannot know its own.
    options = options_of(args, revision=revision(Path()) if args.cluster else "")
    from pipelines.compile import compile_to

    compile_to(args.out, params, options=options)
    print(f"wrote {args.out}")
