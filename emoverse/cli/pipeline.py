"""Commands for Kubeflow: compile, submit, run-local; and the code digests that dvc.yaml depends on."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from emoverse.artifacts.lineage import revision
from emoverse.cli.options import (
    add_checkout_to_path,
    add_images,
    add_params,
    add_variants,
    images_from,
    parameters_from,
    pipeline_options,
    positive_number,
    whole_number,
)
from emoverse.compat.kfp import WORKSPACE
from emoverse.config import Params, plain
from emoverse.errors import UserError


def add_compile_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
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
    params = parameters_from(args)
    # A file for one cluster names the commit it was compiled from; the committed file cannot contain its own commit.
    options = pipeline_options(args, revision=revision(Path()) if args.cluster else "")
    from pipelines.pipeline import compile_to

    compile_to(args.out, params, options=options)
    print(f"wrote {args.out}")


def add_submit_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--host", required=True, metavar="URL", help="address of Kubeflow Pipelines")
    _add_submission_options(parser)
    parser.add_argument("--name", default="", metavar="TEXT", help="name of the run (default: what --set changes)")
    parser.add_argument("--cron", default="", metavar="TIMES", help="run at these times, such as '0 0 3 * * 1'")
    parser.add_argument("--wait", action="store_true", help="print each step's progress until the run ends")
    _add_watch_options(parser)


def _add_watch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--every",
        type=positive_number,
        default=10.0,
        metavar="SECONDS",
        help="pause between two requests while waiting (default 10)",
    )


def _add_submission_options(parser: argparse.ArgumentParser) -> None:
    """Declare what decides a run on a cluster, for ``submit`` and ``plan``."""
    parser.add_argument("--experiment", default="emoverse", metavar="NAME", help="experiment that lists the run")
    parser.add_argument("--namespace", default="", metavar="NAME", help="your namespace, on a multi-user cluster")
    add_params(parser)
    add_images(parser)
    add_variants(parser)
    parser.add_argument("--rev", default="", metavar="REV", help="git revision of the corpora (default: working tree)")
    parser.add_argument("--remote", default="", metavar="NAME", help="DVC remote (default: the repository's)")
    parser.add_argument(
        "--raw-volume", default="", metavar="DIR",
        help="mounted folder that keeps raw corpora by MD5 (default: the workspace, if the profile has one)",
    )  # fmt: skip
    parser.add_argument("--no-cache", action="store_true", help="run every step, whatever is in Kubeflow's cache")
    parser.add_argument(
        "--unchecked", action="append", default=[], choices=("image", "model", "secrets", "trainer"),
        help="skip a check. image: is it in the registry; model: does --original or --model exist; "
        "secrets: do the pods get them (they may in another way, such as workload identity); "
        "trainer: does the cluster that kubectl uses have Kubeflow Trainer, where train.nodes needs it",
    )  # fmt: skip


def run_submit(args: argparse.Namespace) -> None:
    """Check everything the run needs, start it, print its address."""
    add_checkout_to_path()
    from pipelines.runs import name_of_changes, submit

    params, options, arguments, volume = _checked_submission(args)
    run = submit(
        params,
        arguments,
        options,
        base=Path(),
        host=args.host,
        experiment=args.experiment,
        name=args.name or name_of_changes(args.set, options.seeds),
        volume=volume,
        namespace=args.namespace,
        cron=args.cron,
    )
    print(run.url, flush=True)
    if args.wait and not args.cron:
        _watch(run, args, options.cluster.retries.run)


def _watch(run: Any, args: argparse.Namespace, retries: int) -> None:
    from pipelines.runs import watch

    try:
        watch(run, host=args.host, pause=args.every, retries=retries)
    except KeyboardInterrupt:
        raise UserError("no longer watched", place=run.url, remedy="the run continues, look at it there") from None


def _checked_submission(args: argparse.Namespace) -> tuple[Params, Any, Any, str]:
    """Check what a run needs; return its parameters, the pipeline's options, its arguments and the raw volume."""
    params, base = parameters_from(args), Path()
    options = pipeline_options(args, revision=revision(base), cache=not args.no_cache)
    from pipelines import checks
    from pipelines.kubeflow_api import KubeflowApi
    from pipelines.options import cluster_arguments

    images = options.cluster.images_or(options.images)
    for option, image in (("--image-data", images.data), ("--image-train", images.train)):
        checks.check_pinned(image, option)
    KubeflowApi(args.host).health()
    for image in () if "image" in args.unchecked else (images.data, images.train):
        checks.check_held(image)
    if options.model and "model" not in args.unchecked:
        digest = checks.digest_of_model(options.model, finished=options.start == "stage1")
        options = replace(options, model_digest=digest)
        print(f"{options.model}: {options.model_digest[:12]}, complete")
    if "trainer" not in args.unchecked and (message := checks.check_trainer(params, options.cluster, args.namespace)):
        print(message)
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
    for name, entry in data.items():
        print(f"{name}: {entry['md5']}, complete")
    weights = data.pop("weights", {})
    return params, options, cluster_arguments(params, list(data.values()), weights), volume


def add_watch_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("run", metavar="RUN", help="id of the run, the last part of its address")
    parser.add_argument("--host", required=True, metavar="URL", help="address of Kubeflow Pipelines")
    parser.add_argument("--retries", type=whole_number(0), default=0, metavar="N", help="retry after lost nodes (0)")
    _add_watch_options(parser)


def run_watch(args: argparse.Namespace) -> None:
    """Print each step's progress until a run ends; exit with 2 if it failed."""
    add_checkout_to_path()
    from pipelines.kubeflow_api import KubeflowApi
    from pipelines.runs import Run

    _watch(Run(args.run, KubeflowApi(args.host).run_url(args.run)), args, args.retries)


def add_retry_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("run", metavar="RUN", help="id of the run, the last part of its address")
    parser.add_argument("--host", required=True, metavar="URL", help="address of Kubeflow Pipelines")
    parser.add_argument("--force", action="store_true", help="also when a step failed by itself")


def run_retry(args: argparse.Namespace) -> None:
    """Restart a run from the steps that were lost with their nodes."""
    add_checkout_to_path()
    from pipelines.kubeflow_api import KubeflowApi
    from pipelines.runs import Run, retry

    run = Run(args.run, KubeflowApi(args.host).run_url(args.run))
    for step in retry(run, host=args.host, force=args.force):
        print(f"again: {step.name}")
    print(run.url)


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--host", metavar="URL", help="plan a submission to this address; without: `dvc repro`")
    _add_submission_options(parser)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run_plan(args: argparse.Namespace) -> None:
    """Print which steps will run and why, and which come from the cache."""
    add_checkout_to_path()
    from pipelines.plan import plan_of_submission, plan_of_workspace, summary

    if args.host:
        params, options, arguments, volume = _checked_submission(args)
        values = {**arguments.as_keywords(), "raw_volume": volume}
        planned = plan_of_submission(params, options, values, host=args.host, namespace=args.namespace)
    else:
        planned = plan_of_workspace(parameters_from(args), Path(), args.params)
    if args.json:
        print(json.dumps([asdict(step) for step in planned], indent=2, allow_nan=False))
        return
    for step in planned:
        print(step.line())
    print(summary(planned))


def add_run_local_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_params(parser)
    parser.add_argument("--root", type=Path, default=Path("scratch/kubeflow"), metavar="DIR", help="outputs and cache")
    parser.add_argument("--docker", action="store_true", help="run each step in its image (`make image`)")
    add_images(parser)
    parser.add_argument("--shards", type=whole_number(), default=1, metavar="N", help="validate each corpus in N parts")
    parser.add_argument("--json", action="store_true", help="print digests and cache hits as JSON")


def run_run_local(args: argparse.Namespace) -> None:
    """Run every step that is not in the cache, then print one line per step; the steps' own output goes to stderr."""
    add_checkout_to_path()
    params = parameters_from(args)
    from pipelines.run_local import run

    with contextlib.redirect_stdout(sys.stderr):
        outcomes = run(
            params, base=Path(), root=args.root, docker=args.docker, images=images_from(args), shards=args.shards
        )
    hits = [outcome.name for outcome in outcomes if outcome.cached]
    if args.json:
        digests = {
            outcome.name.removeprefix("data/"): outcome.digest
            for outcome in outcomes
            if outcome.name.startswith("data/")
        }
        report = next(outcome.digest for outcome in outcomes if outcome.name == "reports")
        ran = [outcome.name for outcome in outcomes if not outcome.cached]
        result = {"digests": digests, "report": report, "ran": ran, "cached": hits}
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    for outcome in outcomes:
        print(f"{'cached' if outcome.cached else 'ran':6}  {outcome.digest[:12]}  {outcome.name}")
    print(f"{len(hits)} of {len(outcomes)} steps came from the cache; outputs: {args.root / 'latest'}")


def add_fingerprints_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")
    add_params(parser)


def run_fingerprints(args: argparse.Namespace) -> None:
    """Write the digests of each step's code and libraries; the stages of dvc.yaml depend on the file."""
    from emoverse.artifacts.digests import fingerprints
    from emoverse.artifacts.manifest import write_json

    values = plain(parameters_from(args))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, fingerprints(values, args.params.parent))
