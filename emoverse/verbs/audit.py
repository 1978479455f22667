"""``emoverse audit``: look for leakage and label conflicts in annotation files, no videos needed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--meld", type=Path, required=True, metavar="DIR", help="folder of MELD's three CSVs")
    parser.add_argument("--ecf-train", type=Path, required=True, metavar="JSON", help="ECF's Subtask_2_train.json")
    parser.add_argument("--ecf-mapping", type=Path, required=True, metavar="FILE", help="all_data_pair_ECFvsMELD.txt")
    parser.add_argument("--json", action="store_true", help="print one JSON object, every conflict listed")


def main(args: argparse.Namespace) -> None:
    """Print the report."""
    from emoverse.amt.annotations_audit import audit_annotations

    report = audit_annotations(args.meld, args.ecf_train, args.ecf_mapping)
    print(json.dumps(report, indent=2, sort_keys=True) if args.json else _plain(report))


def _plain(report: dict[str, Any]) -> str:
    leakage, conflicts = report["leakage"], report["conflicts"]
    lines = [
        f"MELD test utterances in ECF train: {leakage['meld_test_utterances']}",
        f"without the {leakage['dropped_conversations']} conversations that show one: "
        f"{leakage['kept_conversations']} conversations, {leakage['kept_targets']} ECPE targets "
        f"({leakage['kept_targets_with_cause']} with a cause)",
        f"shared utterances: {conflicts['shared_utterances']}, labelled differently: {conflicts['different_emotion']}",
        *(f"  {kind}: {count}" for kind, count in conflicts["commonest"].items()),
    ]
    return "\n".join(lines)
