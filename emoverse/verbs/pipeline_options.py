"""Options that the verbs around the Kubeflow pipeline share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from emoverse.verbs.numbers import count


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the two container images."""
    parser.add_argument("--image-data", default="", metavar="REF", help="image of the data steps, best by digest")
    parser.add_argument("--image-train", default="", metavar="REF", help="image of the other steps, best by digest")


def add_variants(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the cluster and what the pipeline consists of."""
    parser.add_argument("--cluster", type=Path, metavar="FILE", help="cluster profile: GPUs, volumes, secrets, images")
    parser.add_argument("--shards", type=count(), default=1, metavar="N", help="pods that validate each corpus")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--original", metavar="URI", help="an original InternVL2 folder to convert and start from")
    start.add_argument("--model", metavar="URI", help="a finished stage 1 to start stage 2 from")
    parser.add_argument(
        "--seeds", type=count(0), nargs="+", default=[], metavar="N", help="train once a seed and compare"
    )


def images_of(args: argparse.Namespace) -> Any:
    """Return the images of the verb's options (``components.image.Images``)."""
    from components.image import DATA, TRAIN, Images

    return Images(args.image_data or DATA, args.image_train or TRAIN)


def options_of(args: argparse.Namespace, *, revision: str = "", cache: bool = True) -> Any:
    """Return the pipeline's options (``pipelines.options.Options``); raise UserError where they make no sense."""
    from pipelines.cluster import Cluster, load_cluster
    from pipelines.options import Options

    return Options(
        images=images_of(args),
        cluster=load_cluster(args.cluster) if args.cluster else Cluster(),
        start="convert" if args.original else "stage1" if args.model else "base-model",
        model=args.original or args.model or "",
        shards=args.shards,
        seeds=tuple(args.seeds),
        revision=revision,
        cache=cache,
    )
