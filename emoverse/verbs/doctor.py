"""``emoverse doctor``: check this machine, and a cluster."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import emoverse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Take the cluster to check besides, and how to print."""
    parser.add_argument("--host", metavar="URL", help="address of Kubeflow Pipelines, to check it too")
    parser.add_argument("--data", action="store_true", help="read every byte of DVC's cache too")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="default params.yaml")


def main(args: argparse.Namespace) -> None:
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
        from pipelines.checks import check_endpoint

        try:
            version = check_endpoint(args.host).get("tag_name") or "of unknown version"
            tell(Finding("kubeflow", True, f"Kubeflow Pipelines {version} answers at {args.host}"))
        except UserError as error:
            tell(Finding("kubeflow", False, f"{error.place}: {error.problem}", error.remedy))
    if args.json:
        print(json.dumps([one.plain() for one in found], indent=2, ensure_ascii=False))
    amiss = [one.check for one in found if one.state == "mend"]
    if amiss:
        raise UserError(f"{len(amiss)} of {len(found)} checks to mend: {', '.join(amiss)}", remedy="see above")
