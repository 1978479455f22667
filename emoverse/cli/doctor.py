"""Command that checks this machine and a cluster: doctor. It imports nothing that may not be installed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import emoverse
from emoverse.doctor import Finding, findings
from emoverse.errors import UserError


def add_doctor_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--host", metavar="URL", help="address of Kubeflow Pipelines, to check it too")
    parser.add_argument("--data", action="store_true", help="read every byte of DVC's cache and of folder remotes too")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="default params.yaml")


def run_doctor(args: argparse.Namespace) -> None:
    """Print one line per check; raise UserError when a required check failed."""
    results: list[Finding] = []

    def add(finding: Finding) -> None:
        results.append(finding)
        if not args.json:
            print(finding.line(), flush=True)

    lock = Path(emoverse.__file__).parents[1] / "requirements/lock.txt"
    for finding in findings(Path(), args.params, lock, deep=args.data):
        add(finding)
    if args.host:
        add(_kubeflow(args.host))
        add(_trainer())
    if args.json:
        states = [finding.as_json() for finding in results]
        print(json.dumps(states, indent=2, ensure_ascii=False, allow_nan=False))
    failed = [finding.check for finding in results if finding.state == "fail"]
    if failed:
        raise UserError(f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}", remedy="see above")


def _trainer() -> Finding:
    """Look for Kubeflow Trainer in the cluster that kubectl uses; only training on several nodes needs it."""
    try:
        from emoverse.kubernetes_api import RUNTIME, connect

        api = connect()
        api.check_trainer("ClusterTrainingRuntime", RUNTIME)
        return Finding("trainer", True, f"Kubeflow Trainer has {RUNTIME} at {api.address}", needed=False)
    except UserError as error:
        return Finding("trainer", False, f"{error.place}: {error.problem}", error.remedy, needed=False)
    except ModuleNotFoundError as error:
        return Finding("trainer", False, f"cannot be checked: {error}", "run `make setup`", needed=False)


def _kubeflow(host: str) -> Finding:
    try:
        from emoverse.cli.options import add_checkout_to_path

        add_checkout_to_path()
        from pipelines.kubeflow_api import KubeflowApi

        version = KubeflowApi(host).health().get("tag_name") or "of unknown version"
        return Finding("kubeflow", True, f"Kubeflow Pipelines {version} answers at {host}")
    except UserError as error:
        return Finding("kubeflow", False, f"{error.place}: {error.problem}", error.remedy)
    except ModuleNotFoundError as error:
        return Finding("kubeflow", False, f"cannot be checked: {error}", "run `make setup`, and this in a checkout")
