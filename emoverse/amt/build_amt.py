"""The step ``build-amt``: validated corpora become the AMT instruction dataset, with its audits and baselines."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from emoverse.amt.audit import CorporaAudit, audit_corpora
from emoverse.amt.baselines import baselines
from emoverse.amt.builder import Builder
from emoverse.amt.columns import CorpusTable
from emoverse.amt.leakage import Leak
from emoverse.amt.mixture import Stage, stages
from emoverse.amt.outputs import Outputs, write_page
from emoverse.amt.published import match, read_records
from emoverse.amt.reasons import Reasons, provider
from emoverse.artifacts.digests import sha256_file
from emoverse.artifacts.manifest import Source, open_source, publish, write_json
from emoverse.config import AmtParams, plain
from emoverse.corpora.base import SPLITS
from emoverse.errors import UserError

_LISTED: Final = 20


Check = Callable[[Path], list[dict[str, Any]]]
"""Looks at the rows in a folder; returns findings for the audit, or raises UserError."""


def build_amt(
    validated: Sequence[Path],
    out: Path,
    params: AmtParams,
    authors: Mapping[str, Path] | None = None,
    *,
    check: Check | None = None,
) -> None:
    """Build AMT from folders that ``validate`` wrote, one per corpus, in any order.

    ``authors`` maps ``stage1`` or ``stage2`` to an AMT JSON file of the authors that takes the mixture's place. Writes
    ``stage1.jsonl``, ``stage2.jsonl``, ``validation/`` and ``test/<corpus>-<task>.jsonl``, ``published/`` (the same as
    the authors' JSON, altered copies aside), ``audit.json``, ``page.html``, ``leaks.jsonl``, ``conflicts.jsonl`` and
    ``baselines.json``. ``check`` is ``validation.amt.check_folder``, which this room may not import: nothing is
    published when a row fails it. Raises UserError for unfinished inputs, an unknown task or corpus, a corpus given
    twice, a requested task without rows or with one class only, and (policy ``fail``) leakage.
    """
    sources = {folder: open_source(folder, made_by="validate") for folder in validated}
    tables = sorted((CorpusTable.open(folder) for folder in validated), key=lambda table: table.name)
    names = [table.name for table in tables]
    if len(set(names)) != len(names):
        twice = ", ".join(sorted({name for name in names if names.count(name) > 1}))
        raise UserError(f"corpus {twice} was given twice", place="--validated", remedy="give each corpus's folder once")
    plan = stages(params, names)
    check_asked([stage for stage in plan if stage.name not in (authors or {})])
    records = {stage: read_records(path) for stage, path in sorted((authors or {}).items())}
    found = audit_corpora(tables)
    check_leaks(found.leaks, params.leakage)
    inputs = {table.name: sources[table.folder] for table in tables}
    inputs |= {f"{stage} of the authors": file_source(path) for stage, path in (authors or {}).items()}
    reasons = provider(params.reasons, list(validated))
    with publish(out, step="build-amt", params=plain(params), inputs=inputs) as draft:
        builder, warnings = write_amt(tables, plan, found, reasons, params, draft.path, records, check=check)
        draft.count(rows_in=builder.candidates, rows_out=builder.kept, dropped=builder.dropped)
        draft.seeds = {"amt": params.seed}
        draft.facts = {"reasons": reasons.facts(), "warnings": warnings}


def file_source(path: Path) -> Source:
    """Describe a file of the authors as an input: its digest, and the MD5 that DVC would know it by."""
    digest, md5 = sha256_file(path), hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return Source(path, digest, {digest: {"step": "raw", "name": path.name, "dvc_md5": md5}}, {})


def write_amt(
    tables: Sequence[CorpusTable],
    plan: Sequence[Stage],
    found: CorporaAudit,
    reasons: Reasons,
    params: AmtParams,
    folder: Path,
    records: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    *,
    check: Check | None = None,
) -> tuple[Builder, list[str]]:
    """Write all files into an empty folder; return what was counted, and warnings.

    ``records`` are the authors' own, by the stage whose mixture they replace.
    """
    given = records or {}
    mixed = [stage for stage in plan if stage.name not in given]
    if any(stage.caps for stage in mixed):
        mixed = _capped(tables, mixed, found, reasons, params)
    with Outputs(folder, params.system) as outputs:
        builder = Builder(params, mixed, reasons, found.leaked, outputs, held_out=plan)
        for table in tables:
            builder.corpus(table)
        for name, rows in sorted(given.items()):
            unmatched: Counter[str] = Counter()
            builder.given(name, match(rows, tables, unmatched))
            builder.candidates += unmatched.total()
            builder.dropped.update(unmatched)
    asked = [*mixed, *(_as_stage(name, builder) for name in sorted(given))]
    hints = {**builder.remedies, **builder.tolerated}
    warnings = check_splits(asked, builder.answers, builder.left_out, builder.closed, hints, builder.tolerated)
    found.write(folder)
    expectations = check(folder) if check else []
    audit = {**found.summary(params.leakage), **_counted(builder, outputs, warnings), "expectations": expectations}
    floors = baselines(folder, _trained(builder))
    write_json(folder / "audit.json", audit)
    write_json(folder / "baselines.json", floors)
    write_page(folder / "page.html", audit, floors)
    return builder, warnings


def _capped(
    tables: Sequence[CorpusTable], plan: Sequence[Stage], found: CorporaAudit, reasons: Reasons, params: AmtParams
) -> list[Stage]:
    """Return the stages with limits that leave each capped task its cap: the rows with the smallest draws.

    Where a clip serves one task, a row that one cap sets aside goes to the next task in its queue, which may be capped
    too: then its limit falls, and all is counted again until every task has its cap.
    """
    limited = list(plan)
    while True:
        dry = Builder(params, limited, reasons, found.leaked, None)
        for table in tables:
            dry.corpus(table)
        before, limited = limited, [_limited(stage, dry.draws) for stage in limited]
        if limited == before or params.per_clip == "several" or all(len(stage.caps) < 2 for stage in plan):
            return limited


def _limited(stage: Stage, drawn: Mapping[tuple[str, str], Sequence[float]]) -> Stage:
    """Return the stage with a lower limit for each task that kept more rows than its cap."""
    over = {name: sorted(drawn.get((stage.name, name), ())) for name in stage.caps}
    lower = {name: draws[stage.caps[name]] for name, draws in over.items() if len(draws) > stage.caps[name]}
    return replace(stage, limits={**stage.limits, **lower})


def _as_stage(name: str, builder: Builder) -> Stage:
    """Return a stage that asks for what the authors' records brought; raise UserError when that is nothing."""
    keys = [key for key in builder.answers if key[0] == name]
    if not keys:
        problem = f"no record of {name} names a validated clip and a known prompt"
        raise UserError(problem, place=f"--{name}", remedy="validate the corpora its clips come from")
    corpora, wanted = (tuple(sorted({key[i] for key in keys})) for i in (1, 2))
    return Stage(name, corpora, dict.fromkeys(wanted, 1.0), 0, "several")


def _counted(builder: Builder, outputs: Outputs, warnings: list[str]) -> dict[str, Any]:
    """Return what the audit says of rows: each file's tally, why rows were left out, and placeholders defused."""
    left_out = {"/".join(key): dict(sorted(reasons.items())) for key, reasons in sorted(builder.left_out.items())}
    return {
        "warnings": warnings,
        "mixtures": _mixtures(builder),
        "files": {name: tally.report() for name, tally in sorted(outputs.tallies.items())},
        "left_out": left_out,
        "remedies": dict(sorted({**builder.remedies, **builder.tolerated}.items())),
        "placeholders": {"utterances": len(builder.placeholders), "first": sorted(builder.placeholders)[:_LISTED]},
    }


def _mixtures(builder: Builder) -> dict[str, dict[str, dict[str, int]]]:
    """Return how many rows each stage has, by task and corpus."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for (where, corpus, name), answers in sorted(builder.answers.items()):
        if where not in SPLITS:
            found.setdefault(where, {}).setdefault(name, {})[corpus] = answers.total()
    return found


def _trained(builder: Builder) -> dict[tuple[str, str], Counter[str]]:
    """Return the train answers of all stages by (corpus, task)."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for (where, corpus, name), answers in builder.answers.items():
        if where not in SPLITS:
            found.setdefault((corpus, name), Counter()).update(answers)
    return found


Answers = Mapping[tuple[str, str, str], Counter[str]]
"""Counted answers, or reasons why there is no row, by (stage or split, corpus, task)."""
_SHOWN = 5


def check_asked(stages: Sequence[Stage]) -> None:
    """Raise UserError for a stage that asks for nothing: it could not be trained."""
    for stage in stages:
        if not stage.asked or not stage.corpora:
            what = "no task a weight above 0" if not stage.asked else "no corpus"
            remedy = "give it one, as in `emoverse profile sample --out FILE`"
            raise UserError(f"gives {what}, so there is nothing to train on", place=f"amt.{stage.name}", remedy=remedy)


def check_leaks(leaks: Sequence[Leak], policy: Literal["fail", "drop", "report"]) -> None:
    """Raise UserError when there are leaks and the policy is to fail."""
    if not leaks or policy != "fail":
        return
    shown = "; ".join(f"{leak.utterance_id} is {leak.test_id} ({leak.sign})" for leak in leaks[:_SHOWN])
    more = f"; and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
    problem = f"{len(leaks)} train or validation utterances are test utterances too: {shown}{more}"
    raise UserError(problem, place="amt.leakage", remedy="set it to drop, or to report if you mean it")


def check_splits(
    stages: Sequence[Stage],
    answers: Answers,
    left_out: Answers,
    closed: set[str],
    remedies: Mapping[str, str],
    tolerated: Collection[str] = (),
) -> list[str]:
    """Check that every requested task can be trained and scored; return warnings, or raise UserError with all faults.

    ``remedies`` maps reasons to what would change them; a task all of whose rows are left out for ``tolerated`` reasons
    is a warning.
    """
    problems: list[str] = []
    warnings: list[str] = []
    for where, corpora, name in _wanted(stages):
        key = "test" if where == "test" else where
        by_corpus = {corpus: answers.get((key, corpus, name), Counter()) for corpus in corpora}
        total = sum(by_corpus.values(), Counter())
        reasons = sum((left_out.get((key, corpus, name), Counter()) for corpus in corpora), Counter())
        if not total:
            kind = warnings if reasons and reasons.keys() <= set(tolerated) else problems
            kind.append(_empty(where, name, reasons, remedies))
        elif name in closed:
            # A stage trains on the sum of its corpora; a test file is scored by itself.
            parts = by_corpus if where == "test" else {"+".join(corpora): total}
            problems += [
                f"{where} {name} of {corpus} has one class only, {next(iter(part))!r} in {part.total()} rows"
                for corpus, part in parts.items()
                if len(part) == 1
            ]
    if problems:
        remedy = "add annotated rows, or remove the task or the corpus from the mixture"
        raise UserError("; ".join(problems), place="amt", remedy=remedy)
    return warnings


def _wanted(stages: Sequence[Stage]) -> Iterable[tuple[str, tuple[str, ...], str]]:
    """Yield (stage or ``test``, corpora, task) for everything the mixtures ask for."""
    tested: dict[str, set[str]] = {}
    for stage in stages:
        for name in sorted(name for name, weight in stage.weights.items() if weight > 0):
            yield stage.name, stage.corpora, name
            tested.setdefault(name, set()).update(stage.corpora)
    for name, corpora in sorted(tested.items()):
        yield "test", tuple(sorted(corpora)), name


def _empty(where: str, name: str, reasons: Counter[str], remedies: Mapping[str, str]) -> str:
    why = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "no utterance was picked"
    hints = "; ".join(remedies[reason] for reason in sorted(reasons) if reason in remedies)
    return f"{where} has no {name} rows ({why})" + (f": {hints}" if hints else "")
