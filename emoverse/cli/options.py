"""Options that several commands share, and what is made of them."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

import emoverse
from emoverse.artifacts.digests import MANIFEST
from emoverse.config import Params, load_params, read_yaml
from emoverse.errors import UserError


def add_params(parser: argparse.ArgumentParser) -> None:
    """Add ``--params FILE`` and ``--set section.key=value`` (repeatable)."""
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="default params.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a parameter")


def parameters_from(args: argparse.Namespace) -> Params:
    """Read the parameters that ``--params`` and ``--set`` name."""
    return load_params(args.params, parse_overrides(args.set))


def validated_folders(args: argparse.Namespace, params: Params) -> list[Path]:
    """Return the outputs of validate that ``--validated`` names.

    A folder that is not an output itself stands for the outputs in it, one per corpus of params.yaml: not for all of
    its subfolders, because a corpus that was removed from params.yaml leaves its folder behind. ``*.run.json`` files
    beside the outputs, which a shell's ``*`` matches too, are skipped.
    """
    folders: list[Path] = []
    for folder in args.validated:
        if folder.name.endswith(".run.json"):
            continue
        has_many = folder.is_dir() and not (folder / MANIFEST).is_file()
        folders += [folder / name for name in params.corpora] if has_many else [folder]
    return folders


def parse_overrides(options: list[str]) -> dict[str, Any]:
    """Parse ``section.key=value`` options; values are read as YAML."""
    overrides: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or "." not in key:
            raise UserError(f"--set {option!r} is not section.key=value", remedy="for example --set stage1.epochs=1")
        try:
            overrides[key] = read_yaml(value)
        except yaml.YAMLError:
            remedy = "quote it, for example --set 'amt.system=\"Answer: briefly\"'"
            raise UserError(f"--set {option!r}: the value is not valid YAML", remedy=remedy) from None
    return overrides


def whole_number(least: int = 1, most: int = 10**9) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from ``least`` to ``most``."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(most))) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return parse


def positive_number(text: str) -> float:
    """Parse a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def add_checkout_to_path() -> None:
    """Make the repository's folders ``components`` and ``pipelines`` importable.

    They are not installed, because every second project has packages of these names; they are found beside this
    package in a checkout, or in the current folder. Elsewhere the import fails, and the command line says what to do.
    """
    for root in (Path(emoverse.__file__).parents[1], Path.cwd()):
        if (root / "pipelines/kubeflow_api.py").is_file() and (root / "components/__init__.py").is_file():
            if str(root) not in sys.path:
                sys.path.insert(0, str(root))
            return


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the two container images."""
    parser.add_argument("--image-data", default="", metavar="REF", help="image of the data steps, NAME@sha256:...")
    parser.add_argument("--image-train", default="", metavar="REF", help="image of the other steps, NAME@sha256:...")


def add_variants(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the cluster and the variant of the pipeline."""
    parser.add_argument("--cluster", type=Path, metavar="FILE", help="cluster profile: GPUs, volumes, secrets, images")
    parser.add_argument("--shards", type=whole_number(), default=1, metavar="N", help="pods that validate each corpus")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--original", metavar="URI", help="folder of an original InternVL2 to convert and start from")
    start.add_argument("--model", metavar="URI", help="a finished stage 1 to start stage 2 from")
    parser.add_argument(
        "--seeds", type=whole_number(0), nargs="+", default=[], metavar="N", help="train once per seed and compare"
    )


def images_from(args: argparse.Namespace) -> Any:
    """Return the images that the options name (``components.Images``)."""
    add_checkout_to_path()
    from components import DATA, TRAIN, Images

    return Images(args.image_data or DATA, args.image_train or TRAIN)


def pipeline_options(args: argparse.Namespace, *, revision: str = "", cache: bool = True) -> Any:
    """Return the pipeline's options (``pipelines.options.PipelineOptions``); raise UserError for a contradiction."""
    add_checkout_to_path()
    from pipelines.cluster import Cluster, load_cluster
    from pipelines.options import PipelineOptions

    return PipelineOptions(
        images=images_from(args),
        cluster=load_cluster(args.cluster) if args.cluster else Cluster(),
        start="convert" if args.original else "stage1" if args.model else "base-model",
        model=args.original or args.model or "",
        shards=args.shards,
        seeds=tuple(args.seeds),
        revision=revision,
        cache=cache,
    )
