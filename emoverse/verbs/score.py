"""``emoverse score``: score a predictions file, made here or elsewhere."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from emoverse.verbs.numbers import count


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS.jsonl", help="rows with response and labels")
    parser.add_argument("--task", required=True, metavar="TASK", help="msa, mer, fer, eri, ecpe or ecpe_semeval")
    parser.add_argument("--gold", type=Path, metavar="FILE", help="the test set; refuse missing, extra or changed rows")
    parser.add_argument("--corpus", default="", metavar="NAME", help="whose labels, where the rows do not say")
    parser.add_argument(
        "--bootstrap", type=count(), default=1000, metavar="N", help="resamples for the intervals (default 1000)"
    )
    parser.add_argument("--seed", type=count(0), default=0, help="of the resamples (default 0)")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="eri: settings of an endpoint that judges reasons")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: argparse.Namespace) -> None:
    """Print the scores; raise UserError for a corpus nobody knows, whose labels would be anybody's guess."""
    from emoverse.corpora import reader
    from emoverse.evaluation.score import as_table, score_file

    if args.corpus:
        reader(args.corpus)
    found = score_file(
        args.predictions,
        args.task,
        gold=args.gold,
        corpus=args.corpus,
        bootstrap=args.bootstrap,
        seed=args.seed,
        judge=args.judge,
    )
    print(json.dumps(found, ensure_ascii=False, indent=2) if args.json else as_table(found))
