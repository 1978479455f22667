"""Declare the options that several commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from emoverse.artifacts.digests import MANIFEST
from emoverse.config import Params, load_params, read_yaml
from emoverse.errors import UserError


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


def count(least: int = 1, most: int = 10**9) -> Callable[[str], int]:
    """Return a reader of whole numbers from ``least`` to ``most``."""

    def read(word: str) -> int:
        if not (word.isascii() and word.isdigit() and len(word) <= len(str(most))) or not least <= int(word) <= most:
            raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from {least} to {most}")
        return int(word)

    return read


def above_zero(word: str) -> float:
    """Read a finite number above 0."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number above 0")
    return value


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
    """Return the pipeline's options (``pipelines.options.PipelineOptions``); raise UserError for a contradiction."""
    from pipelines.cluster import Cluster, load_cluster
    from pipelines.options import PipelineOptions

    return PipelineOptions(
        images=images_of(args),
        cluster=load_cluster(args.cluster) if args.cluster else Cluster(),
        start="convert" if args.original else "stage1" if args.model else "base-model",
        model=args.original or args.model or "",
        shards=args.shards,
        seeds=tuple(args.seeds),
        revision=revision,
        cache=cache,
    )
