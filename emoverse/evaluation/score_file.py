"""Score a predictions file, and compare two models on the same records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emoverse.errors import RowErrors
from emoverse.evaluation.intervals import interval
from emoverse.evaluation.matching import Prediction, paired
from emoverse.evaluation.predictions import read_predictions
from emoverse.evaluation.scoring import Scores, baseline_headlines, main_names, score, stable
from emoverse.evaluation.scoring import judge as ask_judge


def score_file(
    path: Path,
    task: str,
    *,
    gold: Path | None = None,
    corpus: str = "",
    bootstrap: int = 1000,
    seed: int = 0,
    judge: Path | None = None,
) -> dict[str, Any]:
    """Return every score of a predictions file as one JSON-like object.

    ``interval`` is the 95 % bootstrap interval of the score that ``headline`` names, ``baseline`` that score of the
    best trivial predictor, ``unparsable`` the number of replies nobody can read (listed in ``unparsable_rows``).
    ``judge`` names the settings of an endpoint that judges reasons, too; what it says is under ``judge``. Raises
    UserError for a file that cannot be scored.
    """
    found = read_predictions(path, task, gold=gold, corpus=corpus)
    golds, groups = [one.gold for one in found], [one.group for one in found]
    scores = _scored(found, task, bootstrap, seed)
    best = {name: stable(value) for name, value in baseline_headlines(task, golds).items()}
    asked = {"judge": ask_judge(found, task, judge, bootstrap=bootstrap, seed=seed)} if judge else {}
    return {
        "task": task,
        "n": scores.n,
        "scored": scores.scored,
        "groups": len(set(groups)),
        "unparsable": len(scores.unparsable),
        "unparsable_rows": [{"row": found[i].name, "reply": found[i].reply} for i in scores.unparsable],
        "headline": scores.headline,
        "interval": [stable(end) for end in scores.interval()],
        "baseline": max(best.values(), default=0.0),
        "baselines": best,
        **{name: stable(value) for name, value in scores.values.items() if name != "unparsable"},
        "intervals": {name: [stable(end) for end in scores.interval(name)] for name in main_names(scores)},
        "published": beside(corpus or _corpus_of(task), task, scores.values, scores.n),
        **asked,
    }


def _corpus_of(task: str) -> str:
    return "ecf" if task.startswith("ecpe") else ""


def compare_files(
    one: Path, other: Path, task: str, *, gold: Path | None = None, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Compare two predictors of the same records by a paired bootstrap of the headline score.

    ``difference`` is ``other`` minus ``one``, ``interval`` its 95 % interval, ``not_better`` the share of resamples in
    which ``other`` is not better. Raises RowErrors when the files answer different records.
    """
    first, second = (read_predictions(path, task, gold=gold, name=str(path)) for path in (one, other))
    matched, problems = paired(first, second)
    if problems:
        raise RowErrors(problems, remedy="compare predictions of the same test set")
    a = _scored(first, task, bootstrap, seed)
    b = _scored(matched, task, bootstrap, seed)
    gap = b.samples[b.headline] - a.samples[a.headline]
    low, high = interval(gap)
    return {
        "task": task,
        "n": a.n,
        "headline": a.headline,
        "one": stable(a.values[a.headline]),
        "other": stable(b.values[b.headline]),
        "difference": stable(b.values[b.headline] - a.values[a.headline]),
        "interval": [stable(low), stable(high)],
        "not_better": stable(float(np.mean(gap <= 0))) if len(gap) else 0.0,
    }


def _scored(found: Sequence[Prediction], task: str, bootstrap: int, seed: int) -> Scores:
    golds, groups = [item.gold for item in found], [item.group for item in found]
    return score(task, golds, [item.reply for item in found], groups=groups, bootstrap=bootstrap, seed=seed)


def as_table(found: dict[str, Any]) -> str:
    """Return the scores as lines for a person."""
    low, high = found["interval"]
    head = found["headline"]
    lines = [f"{found['task']}: {found['n']} records in {found['groups']} groups, {found['unparsable']} unparsable"]
    best = found["baseline"]
    lines.append(f"{head} {found[head]:.4f}, 95 % interval {low:.4f} to {high:.4f}, best baseline {best:.4f}")
    names = [name for name, value in found.items() if isinstance(value, float) and name not in (head, "baseline")]
    lines += [f"  {name:<24} {found[name]:.4f}" for name in names]
    lines += [f"  baseline {name!r}: {value:.4f}" for name, value in found["baselines"].items()]
    for figure in found["published"]:
        verdict = "comparable" if figure["comparable"] else "not comparable"
        theirs = f"{figure['metric']} {figure['value']} ({figure['who']})"
        lines.append(f"  published {theirs}, {verdict}: {figure['reason']}")
    if "judge" in found:
        one = found["judge"]
        low, high = one["interval"]
        lines.append(f"  judge {one['model']}: {one['score']:.4f}, {low:.4f} to {high:.4f}, of {one['judged']} replies")
    lines += [f"  unparsable {row['row']}: {row['reply']!r}" for row in found["unparsable_rows"][:20]]
    return "\n".join(lines)


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
