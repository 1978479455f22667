"""Set our scores beside published ones, and say what makes them comparable or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("published.json")


def beside(corpus: str, task: str, scores: Mapping[str, float], records: int) -> list[dict[str, Any]]:
    """Return the published figures of a test set, each with ours, whether they compare, and why.

    A figure compares only when it answers the same question about as many records.
    """
    found: list[dict[str, Any]] = []
    for figure in json.loads(_FILE.read_text("utf-8")):
        if (figure["corpus"], figure["task"]) != (corpus, task) or figure["metric"] not in scores:
            continue
        whole = records == figure["records"]
        other = "" if whole else f"Ours are {records} other records, theirs {figure['records']}. "
        kept = {key: figure[key] for key in ("metric", "value", "who", "source")}
        ours = round(scores[figure["metric"]], 6)
        comparable = whole and not figure.get("other_question", False)
        verdict = {"test": f"{corpus}-{task}", "comparable": comparable, "reason": other + figure["note"]}
        found.append({**kept, "ours": ours, **verdict})
    return found
