"""Commands for Kubeflow: compile, submit, run-local, doctor."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import emoverse
from emoverse.artifacts.lineage import revision
from emoverse.cli.options import (
    above_zero,
    add_images,
    add_params,
    add_variants,
    count,
    images_of,
    options_of,
    params_of,
)
from emoverse.compat.kfp import WORKSPACE
from emoverse.config import plain
from emoverse.errors import UserError


def add_compile_options(parser: argparse.ArgumentParser) -> None:
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


def run_compile(args: argparse.Namespace) -> None:
    """Compile the pipeline, preset to the parameters and to the corpora's .dvc files."""
    params = params_of(args)
    # A file for one cluster says which commit it was compiled from; the committed one cannot know its own.
    options = options_of(args, revision=revision(Path()) if args.cluster else "")
    from pipelines.pipeline import compile_to

    compile_to(args.out, params, options=options)
    print(f"wrote {args.out}")


def add_submit_options(parser: argparse.ArgumentParser) -> None:
    """Take where to submit to, what the run shall use, and whether to wait for it."""
    parser.add_argument("--host", required=True, metavar="URL", help="address of Kubeflow Pipelines")
    parser.add_argument("--experiment", default="emoverse", metavar="NAME", help="where the UI files the run")
    parser.add_argument("--namespace", default="", metavar="NAME", help="your namespace, on a multi-user cluster")
    add_params(parser)
    add_images(parser)
    add_variants(parser)
    parser.add_argument("--rev", default="", metavar="REV", help="git revision of the corpora (default: working tree)")
    parser.add_argument("--remote", default="", metavar="NAME", help="DVC remote (default: the repository's)")
    parser.add_argument(
        "--raw-volume", default="", metavar="DIR",
        help="mounted folder that keeps raw corpora by MD5 (default: the workspace, where the profile has one)",
    )  # fmt: skip
    parser.add_argument("--no-cache", action="store_true", help="run every step, whatever Kubeflow remembers")
    parser.add_argument(
        "--unchecked", action="append", default=[], choices=("image", "model", "secrets"),
        help="image: do not ask the registry; model: nor look whether --original or --model is there; "
        "secrets: pods get them in another way, such as workload identity",
    )  # fmt: skip
    parser.add_argument("--wait", action="store_true", help="show each step's progress until the run ends")
    parser.add_argument("--every", type=above_zero, default=10.0, metavar="SECONDS", help="how often --wait asks (10)")


def run_submit(args: argparse.Namespace) -> None:
    """Check what the run needs, start it, print its address."""
    params, base = params_of(args), Path()
    options = options_of(args, revision=revision(base), cache=not args.no_cache)
    from pipelines import checks, submit
    from pipelines import image_registry as registry
    from pipelines.kubeflow_api import KubeflowApi
    from pipelines.options import cluster_arguments

    images = options.cluster.images_or(options.images)
    for option, image in (("--image-data", images.data), ("--image-train", images.train)):
        registry.check_pinned(image, option)
    KubeflowApi(args.host).health()
    for image in () if "image" in args.unchecked else (images.data, images.train):
        registry.check_held(image)
    if options.model and "model" not in args.unchecked:
        digest = checks.digest_of_model(options.model, finished=options.start == "stage1")
        options = replace(options, model_digest=digest)
        print(f"{options.model}: {options.model_digest[:12]}, all there")
    volume = args.raw_volume.rstrip("/") or (WORKSPACE if options.cluster.workspace else "")
    data = checks.check_data(
        params,
        options.cluster,
        base=base,
        revision=args.rev,
        remote=args.remote,
        volume=volume,
        secrets="secrets" not in args.unchecked,
    )
    for name, one in data.items():
        print(f"{name}: {one['md5']}, all there")
    weights = data.pop("weights", {})
    run = submit.submit(
        params,
        cluster_arguments(params, list(data.values()), weights),
        options,
        base=base,
        host=args.host,
        experiment=args.experiment,
        volume=volume,
        namespace=args.namespace,
    )
    print(run.url, flush=True)
    if args.wait:
        try:
            submit.watch(run, host=args.host, pause=args.every)
        except KeyboardInterrupt:
            raise UserError("no longer watched", place=run.url, remedy="the run goes on; look at it there") from None


def add_run_local_options(parser: argparse.ArgumentParser) -> None:
    """Take the parameters and the folder for outputs and cache."""
    add_params(parser)
    parser.add_argument("--root", type=Path, default=Path("scratch/kubeflow"), metavar="DIR", help="outputs and cache")
    parser.add_argument("--docker", action="store_true", help="run each step in its image (`make image`)")
    add_images(parser)
    parser.add_argument("--shards", type=count(), default=1, metavar="N", help="validate each corpus in N parts")
    parser.add_argument("--json", action="store_true", help="print digests and cache hits as JSON")


def run_run_local(args: argparse.Namespace) -> None:
    """Run every step that the cache does not hold, then print a line per step (the steps' own words: stderr)."""
    params = params_of(args)
    from pipelines.run_local import run

    with contextlib.redirect_stdout(sys.stderr):
        outcomes = run(
            params, base=Path(), root=args.root, docker=args.docker, images=images_of(args), shards=args.shards
        )
    hits = [one.name for one in outcomes if one.cached]
    if args.json:
        digests = {one.name.removeprefix("data/"): one.digest for one in outcomes if one.name.startswith("data/")}
        report = next(one.digest for one in outcomes if one.name == "reports")
        ran = [one.name for one in outcomes if not one.cached]
        print(json.dumps({"digests": digests, "report": report, "ran": ran, "cached": hits}, indent=2))
        return
    for one in outcomes:
        print(f"{'cached' if one.cached else 'ran':6}  {one.digest[:12]}  {one.name}")
    print(f"{len(hits)} of {len(outcomes)} steps came from the cache; outputs: {args.root / 'latest'}")


def add_doctor_options(parser: argparse.ArgumentParser) -> None:
    """Take the cluster to check besides, and how to print."""
    parser.add_argument("--host", metavar="URL", help="address of Kubeflow Pipelines, to check it too")
    parser.add_argument("--data", action="store_true", help="read every byte of DVC's cache too")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="default params.yaml")


def run_doctor(args: argparse.Namespace) -> None:
    """Print a line a check, then fail when one that is needed is not as it should be."""
    from emoverse.doctor import Finding, findings
    from emoverse.errors import UserError

    found: list[Finding] = []

    def tell(one: Finding) -> None:
        found.append(one)
        if not args.json:
            print(one.line(), flush=True)

    lock = Path(emoverse.__file__).parents[1] / "requirements/lock.txt"
    for one in findings(Path(), args.params, lock, deep=args.data):
        tell(one)
    if args.host:
        from pipelines.kubeflow_api import KubeflowApi

        try:
            version = KubeflowApi(args.host).health().get("tag_name") or "of unknown version"
            tell(Finding("kubeflow", True, f"Kubeflow Pipelines {version} answers at {args.host}"))
        except UserError as error:
            tell(Finding("kubeflow", False, f"{error.place}: {error.problem}", error.remedy))
    if args.json:
        print(json.dumps([one.plain() for one in found], indent=2, ensure_ascii=False))
    amiss = [one.check for one in found if one.state == "mend"]
    if amiss:
        raise UserError(f"{len(amiss)} of {len(found)} checks to mend: {', '.join(amiss)}", remedy="see above")


def add_fingerprints_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")
    add_params(parser)


def run_fingerprints(args: argparse.Namespace) -> None:
    """Write what decides each step's result besides data and parameters; the stages of dvc.yaml depend on it."""
    from emoverse.artifacts.manifest import write_json
    from emoverse.artifacts.source_digest import fingerprints

    values = plain(params_of(args))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, fingerprints(values, args.params.parent))
