"""``emoverse submit``: start a run of the pipeline on a cluster."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from emoverse.errors import UserError
from emoverse.lineage import revision
from emoverse.verbs.common import add_params, params_of
from emoverse.verbs.numbers import above_zero
from emoverse.verbs.pipeline_options import add_images, add_variants, options_of


def arguments(parser: argparse.ArgumentParser) -> None:
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


def main(args: argparse.Namespace) -> None:
    """Check what the run needs, start it, print its address."""
    params, base = params_of(args), Path()
    options = options_of(args, revision=revision(base), cache=not args.no_cache)
    from pipelines import checks, given, registry, submit
    from pipelines.arguments import ordered
    from pipelines.cluster import WORKSPACE

    images = options.cluster.named(options.images)
    for option, image in (("--image-data", images.data), ("--image-train", images.train)):
        registry.check_pinned(image, option)
    checks.check_endpoint(args.host)
    for image in () if "image" in args.unchecked else (images.data, images.train):
        registry.check_held(image)
    if options.model and "model" not in args.unchecked:
        options = replace(options, model_digest=given.look_into(options.model, finished=options.start == "stage1"))
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
        ordered(params, list(data.values()), weights),
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
            submit.watch(run, host=args.host, namespace=args.namespace, pause=args.every)
        except KeyboardInterrupt:
            raise UserError("no longer watched", place=run.url, remedy="the run goes on; look at it there") from None
