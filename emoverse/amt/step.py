"""The step ``build-amt``: validated corpora become the AMT instruction dataset, with its audits and baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from emoverse.amt.baselines import baselines
from emoverse.amt.builder import Builder
from emoverse.amt.corpora_audit import audit_corpora
from emoverse.amt.gate import check_leaks, check_splits
from emoverse.amt.mixture import stages
from emoverse.amt.outputs import Outputs
from emoverse.amt.reasons import provider
from emoverse.amt.tables import CorpusTable
from emoverse.errors import UserError
from emoverse.manifest import open_source, publish, write_json
from emoverse.params import AmtParams, plain
from emoverse.steps import CODE

_LISTED: Final = 20
_LIBRARIES: Final = ("datasketch", "numpy", "orjson", "pyarrow")


def build_amt(validated: Sequence[Path], out: Path, params: AmtParams) -> None:
    """Build AMT from folders that ``validate`` wrote, one per corpus, in any order.

    Writes ``stage1.jsonl``, ``stage2.jsonl``, ``validation/`` and ``test/<corpus>-<task>.jsonl``, ``published/`` (the
    same as the authors' JSON, altered copies aside), ``audit.json``, ``leaks.jsonl``, ``conflicts.jsonl`` and
    ``baselines.json``. Raises UserError for unfinished inputs, an unknown task or corpus, a corpus given twice, a
    requested task without rows or with one class only, and (policy ``fail``) leakage.
    """
    sources = {folder: open_source(folder, made_by="validate") for folder in validated}
    tables = sorted((CorpusTable.open(folder) for folder in validated), key=lambda table: table.name)
    names = [table.name for table in tables]
    if len(set(names)) != len(names):
        twice = ", ".join(sorted({name for name in names if names.count(name) > 1}))
        raise UserError(f"corpus {twice} was given twice", place="--validated", remedy="give each corpus's folder once")
    plan = stages(params, names)
    reasons = provider(params.reasons, list(validated))
    found = audit_corpora(tables)
    check_leaks(found.leaks, params.leakage)
    inputs = {table.name: sources[table.folder] for table in tables}
    with publish(
        out, step="build-amt", params=plain(params), inputs=inputs, code=CODE["build-amt"], libraries=_LIBRARIES
    ) as draft:
        with Outputs(draft.path, params.system) as outputs:
            builder = Builder(params, plan, reasons, found.leaked, outputs)
            for table in tables:
                builder.corpus(table)
        warnings = check_splits(plan, builder.answers, builder.left_out, builder.closed, builder.tolerated)
        found.write(draft.path)
        write_json(draft.path / "audit.json", {**found.summary(params.leakage), **_counted(builder, outputs, warnings)})
        write_json(draft.path / "baselines.json", baselines(draft.path, _trained(builder)))
        draft.count(rows_in=builder.candidates, rows_out=builder.kept, dropped=builder.dropped)
        draft.seeds = {"amt": params.seed}
        draft.facts = {"reasons": reasons.facts(), "warnings": warnings}


def _counted(builder: Builder, outputs: Outputs, warnings: list[str]) -> dict[str, Any]:
    """Return what the audit says of rows: each file's tally, why rows were left out, and placeholders defused."""
    left_out = {"/".join(key): dict(sorted(reasons.items())) for key, reasons in sorted(builder.left_out.items())}
    return {
        "warnings": warnings,
        "files": {name: tally.report() for name, tally in sorted(outputs.tallies.items())},
        "left_out": left_out,
        "remedies": dict(sorted({**builder.remedies, **builder.tolerated}.items())),
        "placeholders": {"utterances": len(builder.placeholders), "first": sorted(builder.placeholders)[:_LISTED]},
    }


def _trained(builder: Builder) -> dict[tuple[str, str], Counter[str]]:
    """Return the train answers of all stages by (corpus, task)."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for (where, corpus, name), answers in builder.answers.items():
        if where not in ("validation", "test"):
            found.setdefault((corpus, name), Counter()).update(answers)
    return found
