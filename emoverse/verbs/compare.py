"""``emoverse compare``: say whether one model is better than another on the same records."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from emoverse.verbs.numbers import count


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("one", type=Path, metavar="A", help="predictions of one model")
    parser.add_argument("other", type=Path, metavar="B", help="predictions of the other")
    parser.add_argument("--task", required=True, metavar="TASK", help="msa, mer, fer, eri, ecpe or ecpe_semeval")
    parser.add_argument("--gold", type=Path, metavar="FILE", help="the test set both must answer")
    parser.add_argument(
        "--bootstrap", type=count(), default=1000, metavar="N", help="resamples for the interval (default 1000)"
    )
    parser.add_argument("--seed", type=count(0), default=0, help="of the resamples (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: argparse.Namespace) -> None:
    """Print the difference and its interval."""
    from emoverse.evaluation.score import compare_files

    found = compare_files(args.one, args.other, args.task, gold=args.gold, bootstrap=args.bootstrap, seed=args.seed)
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    low, high = found["interval"]
    print(f"{found['headline']}: A {found['one']:.4f}, B {found['other']:.4f}, on {found['n']} records")
    print(f"B - A: {found['difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}")
    print(f"B is not better in {found['not_better']:.1%} of the resamples")
