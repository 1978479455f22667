"""``emoverse submit``: start a run of the pipeline on a cluster."""

from __future__ import annotations

import argparse
from pathlib import Path

from emoverse.verbs.common import add_params, params_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Take where to submit to, what the run shall use, and whether to wait for it."""
    parser.add_argument("--host", required=True, metavar="URL", help="address of Kubeflow Pipelines")
    parser.add_argument("--image", required=True, metavar="REF", help="image of the steps, pinned: NAME@sha256:...")
    parser.add_argument("--experiment", default="emoverse", metavar="NAME", help="where the UI files the run")
    parser.add_argument("--namespace", default="", metavar="NAME", help="your namespace, on a multi-user cluster")
    parser.add_argument(
        "--rev", default="", metavar="REV", help="git revision of the corpora (default: the working tree)"
    )
    parser.add_argument("--remote", default="", metavar="NAME", help="DVC remote (default: the repository's)")
    parser.add_argument("--raw-volume", default="", metavar="DIR", help="mounted folder that keeps raw corpora by MD5")
    parser.add_argument("--no-cache", action="store_true", help="run every step, whatever Kubeflow remembers")
    parser.add_argument("--unchecked", action="append", default=[], choices=("image",), help="do not ask the registry")
    parser.add_argument("--wait", action="store_true", help="show each step's progress until the run ends")
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS", help="how often --wait asks (10)")
    add_params(parser)


def main(args: argparse.Namespace) -> None:
    """Check what the run needs, start it, print its address."""
    params = params_of(args)
    from pipelines import checks, registry, submit
    from pipelines.arguments import ordered

    registry.check_pinned(args.image)
    checks.check_endpoint(args.host)
    if "image" not in args.unchecked:
        registry.check_held(args.image)
    base = Path()
    corpora = checks.corpora(params, base=base, revision=args.rev, remote=args.remote, volume=args.raw_volume)
    for one in corpora:
        print(f"{one['corpus']}: {one['md5']}, all there")
    run = submit.submit(
        params,
        ordered(params, corpora),
        base=base,
        host=args.host,
        image=args.image,
        experiment=args.experiment,
        volume=args.raw_volume,
        namespace=args.namespace,
        cache=not args.no_cache,
    )
    print(run.url, flush=True)
    if args.wait:
        submit.watch(run, host=args.host, namespace=args.namespace, pause=args.every)
