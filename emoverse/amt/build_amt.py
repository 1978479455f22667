"""The step ``build-amt``: validated corpora become the AMT instruction dataset, with its audits and baselines."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined

from emoverse.amt.audit import CorporaAudit, Leak, audit_corpora
from emoverse.amt.builder import Builder, Stage, draw, stages
from emoverse.amt.corpus_table import CorpusTable
from emoverse.amt.reasons import Reasons, provider, settings_file
from emoverse.amt.records import Outputs, match, read_records
from emoverse.artifacts.digests import sha256_file
from emoverse.artifacts.manifest import Source, open_source, publish, write_json
from emoverse.config import AmtParams, plain
from emoverse.corpora import SPLITS
from emoverse.errors import UserError, did_you_mean
from emoverse.tasks import conditions
from emoverse.tasks import task as task_named

_LISTED: Final = 20
_COMMON: Final = 7  # answers of a file that the page shows
_SHORT: Final = 40  # characters of an answer that it shows
Check = Callable[[Path], list[dict[str, Any]]]
"""Check the rows in a folder; return findings for the audit, or raise UserError."""
_SHOWN = 5
Answers = Mapping[tuple[str, str, str], Counter[str]]
"""Counted answers, or reasons why there is no row, by (stage or split, corpus, task)."""
_GOLDS_AT_ONCE: Final = 4096
_GOLD, _GROUP = b',"gold":', b',"group":'
"""Before a row's last key, and before the last key of that; in a string the quotation marks would be escaped."""


def build_amt(
    validated: Sequence[Path],
    out: Path,
    params: AmtParams,
    authors: Mapping[str, Path] | None = None,
    *,
    check: Check | None = None,
) -> None:
    """Build AMT from output folders of ``validate``, one per corpus, in any order.

    Writes ``stage1.jsonl``, ``stage2.jsonl``, ``validation/`` and ``test/<corpus>-<task>.jsonl``, ``published/`` (the
    authors' JSON, without altered copies), ``audit.json``, ``page.html``, ``leaks.jsonl``, ``conflicts.jsonl`` and
    ``baselines.json``.

    Args:
        validated: Outputs of validate.
        out: Folder to publish.
        params: Section ``amt``.
        authors: ``stage1`` or ``stage2`` -> an AMT JSON file of the authors that replaces that stage's mixture.
        check: ``validation.amt_rows.check_folder``, which this package may not import; nothing is published when a row
            fails it.

    Raises:
        UserError: Unfinished inputs, an unknown task or corpus, a repeated corpus, a requested task without rows or
            with one class only, or (policy ``fail``) leakage.
    """
    sources = {folder: open_source(folder, made_by="validate") for folder in validated}
    tables = sorted((CorpusTable.open(folder) for folder in validated), key=lambda table: table.name)
    names = Counter(table.name for table in tables)
    if repeated := ", ".join(name for name, count in names.items() if count > 1):
        remedy = "give each corpus's folder once"
        raise UserError(f"corpus {repeated} was given twice", place="--validated", remedy=remedy)
    plan = stages(params, list(names))
    check_not_empty([stage for stage in plan if stage.name not in (authors or {})])
    records = {stage: read_records(path) for stage, path in sorted((authors or {}).items())}
    audit = audit_corpora(tables)
    check_leaks(audit.leaks, params.leakage)
    tables = cut_validation(tables, params)
    inputs = {table.name: sources[table.folder] for table in tables}
    inputs |= {f"{stage} of the authors": file_source(path) for stage, path in (authors or {}).items()}
    if path := settings_file(params.reasons):
        inputs["reasons"] = file_source(path)
    reasons = provider(params.reasons, list(validated))
    with publish(out, step="build-amt", params=plain(params), inputs=inputs) as draft:
        builder, warnings = write_amt(tables, plan, audit, reasons, params, draft.path, records, check=check)
        draft.count(rows_in=builder.candidates, rows_out=builder.kept, dropped=builder.dropped)
        draft.seeds = {"amt": params.seed}
        draft.facts = {"reasons": reasons.facts(), "warnings": warnings}


def cut_validation(tables: Sequence[CorpusTable], params: AmtParams) -> list[CorpusTable]:
    """Return the tables, with a validation split cut from train where ``amt.validation_share`` requests one.

    Whole dialogues are taken: those with the smallest draws by ``amt.seed``, at least one and never all.

    Raises:
        UserError: The corpus is not among the inputs, has a validation split of its own, or has too few dialogues.
    """
    place = "amt.validation_share"
    names = [table.name for table in tables]
    if unknown := sorted(params.validation_share.keys() - set(names)):
        raise UserError(
            f"corpus {unknown[0]!r} is not among the inputs", place=place, remedy=did_you_mean(unknown[0], names)
        )
    cut = []
    for table in tables:
        share = params.validation_share.get(table.name, 0.0)
        if share and any(utterance.split == "validation" for utterance in table.utterances):
            problem, remedy = f"{table.name} has a validation split of its own", f"remove {table.name}"
            raise UserError(problem, place=place, remedy=remedy)
        if share:
            drawn = sorted(table.train_dialogues(), key=lambda name: draw(name, params.seed, "validation", table.name))
            count = max(1, round(share * len(drawn)))
            if count >= len(drawn):
                problem = f"{share:g} of {len(drawn)} train dialogues of {table.name} leaves nothing to train on"
                raise UserError(problem, place=place, remedy="take a smaller share")
            table = table.with_validation(set(drawn[:count]))
        cut.append(table)
    return cut


def file_source(path: Path) -> Source:
    """Describe a file as an input: its digest, and its MD5 in DVC."""
    digest, md5 = sha256_file(path), hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return Source(path, digest, {digest: {"step": "raw", "name": path.name, "dvc_md5": md5}}, {})


def write_amt(
    tables: Sequence[CorpusTable],
    plan: Sequence[Stage],
    audit: CorporaAudit,
    reasons: Reasons,
    params: AmtParams,
    folder: Path,
    records: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    *,
    check: Check | None = None,
) -> tuple[Builder, list[str]]:
    """Write all files into an empty folder; return the builder with its counts, and warnings.

    Args:
        tables: The validated corpora, sorted by name.
        plan: The mixtures of both stages.
        audit: Leaks and label conflicts between the corpora.
        reasons: Provider of ERI's reasons.
        params: Section ``amt``.
        folder: An empty folder.
        records: The authors' own records by the stage whose mixture they replace.
        check: As for `build_amt`.
    """
    own = records or {}
    mixed = [stage for stage in plan if stage.name not in own]
    if any(stage.caps for stage in mixed):
        mixed = _limited(tables, mixed, audit, reasons, params)
    with Outputs(folder, params.system) as outputs:
        builder = Builder(params, mixed, reasons, audit.leaked, outputs, held_out=plan)
        for table in tables:
            builder.add_corpus(table)
        for name, rows in sorted(own.items()):
            unmatched: Counter[str] = Counter()
            builder.add_records(name, match(rows, tables, unmatched))
            builder.candidates += unmatched.total()
            builder.dropped.update(unmatched)
    requested = [*mixed, *(_as_stage(name, builder) for name in sorted(own))]
    hints = {**builder.remedies, **builder.tolerated}
    warnings = check_splits(requested, builder.answers, builder.left_out, builder.closed, hints, builder.tolerated)
    audit.write(folder)
    expectations = check(folder) if check else []
    report = {**audit.summary(params.leakage), **_counts(builder, outputs, warnings), "expectations": expectations}
    floors = baselines(folder, _train_answers(builder))
    write_json(folder / "audit.json", report)
    write_json(folder / "baselines.json", floors)
    write_page(folder / "page.html", report, floors)
    return builder, warnings


def _limited(
    tables: Sequence[CorpusTable], plan: Sequence[Stage], audit: CorporaAudit, reasons: Reasons, params: AmtParams
) -> list[Stage]:
    """Return the stages with limits that leave each capped task its cap: the rows with the smallest draws.

    Where a clip serves one task, a row that one cap sets aside goes to the next task in its queue, which may be capped
    too: then its limit falls, and all is counted again until every task has its cap.
    """
    limited = list(plan)
    while True:
        dry_run = Builder(params, limited, reasons, audit.leaked, None)
        for table in tables:
            dry_run.add_corpus(table)
        before, limited = limited, [_with_lower_limits(stage, dry_run.draws) for stage in limited]
        if limited == before or params.per_clip == "several" or all(len(stage.caps) < 2 for stage in plan):
            return limited


def _with_lower_limits(stage: Stage, drawn: Mapping[tuple[str, str], Sequence[float]]) -> Stage:
    """Return the stage with a lower limit for each task that kept more rows than its cap."""
    draws = {name: sorted(drawn.get((stage.name, name), ())) for name in stage.caps}
    lower = {name: values[stage.caps[name]] for name, values in draws.items() if len(values) > stage.caps[name]}
    return replace(stage, limits={**stage.limits, **lower})


def _as_stage(name: str, builder: Builder) -> Stage:
    """Return a stage that requests what the authors' records contain; raise UserError when that is nothing."""
    keys = [key for key in builder.answers if key[0] == name]
    if not keys:
        problem = f"no record of {name} names a validated clip and a known prompt"
        raise UserError(problem, place=f"--{name}", remedy="validate the corpora its clips come from")
    corpora, tasks = (tuple(sorted({key[i] for key in keys})) for i in (1, 2))
    return Stage(name, corpora, dict.fromkeys(tasks, 1.0), 0, "several")


def _counts(builder: Builder, outputs: Outputs, warnings: list[str]) -> dict[str, Any]:
    """Return the audit of rows: the counts of each file, why rows were left out, and neutralised placeholders."""
    left_out = {"/".join(key): dict(sorted(reasons.items())) for key, reasons in sorted(builder.left_out.items())}
    mixtures: dict[str, dict[str, dict[str, int]]] = {}
    for (where, corpus, task), answers in sorted(builder.answers.items()):
        if where not in SPLITS:
            mixtures.setdefault(where, {}).setdefault(task, {})[corpus] = answers.total()
    return {
        "warnings": warnings,
        "mixtures": mixtures,
        "files": {name: file_counts.report() for name, file_counts in sorted(outputs.counts.items())},
        "left_out": left_out,
        "remedies": dict(sorted({**builder.remedies, **builder.tolerated}.items())),
        "placeholders": {"utterances": len(builder.placeholders), "first": sorted(builder.placeholders)[:_LISTED]},
    }


def _train_answers(builder: Builder) -> dict[tuple[str, str], Counter[str]]:
    """Return the train answers of all stages by (corpus, task)."""
    trained: dict[tuple[str, str], Counter[str]] = {}
    for (where, corpus, task), answers in builder.answers.items():
        if where not in SPLITS:
            trained.setdefault((corpus, task), Counter()).update(answers)
    return trained


def check_not_empty(stages: Sequence[Stage]) -> None:
    """Raise UserError for a stage without a task or a corpus: it could not be trained."""
    for stage in stages:
        if not stage.tasks or not stage.corpora:
            problem = "no task has a weight above 0" if not stage.tasks else "it has no corpus"
            remedy = "add one, as in `emoverse profile sample --out FILE`"
            raise UserError(f"{problem}, so there is nothing to train on", place=f"amt.{stage.name}", remedy=remedy)


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
    """Check that every requested task can be trained and scored; return warnings, or raise UserError with all problems.

    Args:
        stages: The requested mixtures.
        answers: Counted answers of the rows written.
        left_out: Counted reasons why there is no row.
        closed: Tasks with a closed list of answers, which need at least two of them.
        remedies: Reason -> what would change it.
        tolerated: Reasons for which a task may lose all its rows; that is a warning.
    """
    problems: list[str] = []
    warnings: list[str] = []
    for where, corpora, name in _requested(stages):
        by_corpus = {corpus: answers.get((where, corpus, name), Counter()) for corpus in corpora}
        total = sum(by_corpus.values(), Counter())
        reasons = sum((left_out.get((where, corpus, name), Counter()) for corpus in corpora), Counter())
        if not total:
            kind = warnings if reasons and reasons.keys() <= set(tolerated) else problems
            kind.append(_no_rows(where, name, reasons, remedies))
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


def _requested(stages: Sequence[Stage]) -> Iterable[tuple[str, tuple[str, ...], str]]:
    """Yield (stage or ``test``, corpora, task) for everything the mixtures request."""
    tested: dict[str, set[str]] = {}
    for stage in stages:
        for name in sorted(stage.tasks):
            yield stage.name, stage.corpora, name
            tested.setdefault(name, set()).update(stage.corpora)
    for name, corpora in sorted(tested.items()):
        yield "test", tuple(sorted(corpora)), name


def _no_rows(where: str, name: str, reasons: Counter[str], remedies: Mapping[str, str]) -> str:
    counted = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "no utterance was picked"
    hints = "; ".join(remedies[reason] for reason in sorted(reasons) if reason in remedies)
    return f"{where} has no {name} rows ({counted})" + (f": {hints}" if hints else "")


def write_page(path: Path, audit: Mapping[str, Any], baselines: Mapping[str, Any]) -> None:
    """Write ``page.html``; everything from the data is escaped. No script: a sandboxed iframe shows all of it."""
    environment = Environment(
        loader=PackageLoader("emoverse.amt", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["count"] = lambda value: f"{value:,}"
    records = sum(test["records"] for test in baselines.values())
    page = environment.get_template("page.html.jinja")
    text = page.render(audit=audit, baselines=baselines, records=records, common=_common)
    path.write_text(text, "utf-8", newline="\n")


def _common(file: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the most frequent answers of a file; none of a file of sentences, which hardly repeat."""
    common = list(file["answers"].items())[:_COMMON]
    return common if all(len(answer) <= _SHORT for answer, _ in common) else []


def baselines(root: Path, trained: Mapping[tuple[str, str], Counter[str]]) -> dict[str, Any]:
    """Return ``{"meld-mer": {"records": n, "baselines": {"majority": {"reply": ..., "scores": {...}}}}}``.

    ``root`` holds ``test/*.jsonl``; ``trained`` counts train answers by (corpus, task), for the majority class. A test
    file without train rows of its corpus uses its own majority, which no predictor could know, and says so.
    """
    tables: dict[str, Any] = {}
    for path in sorted((root / "test").glob("*.jsonl")):
        corpus, _, name = path.stem.rpartition("-")
        answers = sum((trained.get((corpus, condition), Counter()) for condition in conditions(name)), Counter())
        tables[path.stem] = score_trivial(name, path, answers)
    return tables


def score_trivial(name: str, path: Path, trained: Counter[str]) -> dict[str, Any]:
    """Score a task's trivial predictors on one test file: each different gold once, as counts are additive."""
    definition, counted = task_named(name), _golds(path)
    if not trained:
        answers: Counter[str] = Counter()
        for blob, times in counted.items():
            answers[orjson.loads(blob)["answer"]] += times
    majority_from, seen = ("train", trained) if trained else ("test", answers)
    totals: dict[str, Any] = {}
    replies: dict[str, set[str]] = {}
    left = iter(counted.items())
    while batch := list(islice(left, _GOLDS_AT_ONCE)):
        golds, weights = [orjson.loads(blob) for blob, _ in batch], np.array([count for _, count in batch], np.float64)
        scorer = definition.scorer(golds)
        for predictor, answered in definition.baselines(golds, seen).items():
            totals[predictor] = totals.get(predictor, 0.0) + weights @ scorer.counts(answered)
            kept = replies.setdefault(predictor, set())
            if len(kept) < 2:
                kept.update(answered)
    table = {}
    for predictor, total in totals.items():
        scores = {key: round(float(value), 6) for key, value in sorted(scorer.scores(total).items())}
        only = next(iter(replies[predictor])) if len(replies[predictor]) == 1 else None
        table[predictor] = {"reply": only, "scores": scores}
    return {
        "records": counted.total(),
        "headline": definition.headline,
        "majority_from": majority_from,
        "baselines": table,
    }


def _golds(path: Path) -> Counter[bytes]:
    """Count the different golds of a file, as JSON; which dialogue a record belongs to is no part of a baseline."""
    golds: Counter[bytes] = Counter()
    with path.open("rb") as handle:
        for line in handle:
            gold = line[line.rindex(_GOLD) + len(_GOLD) :]
            golds[gold[: gold.rindex(_GROUP)] + b"}"] += 1
    return golds
