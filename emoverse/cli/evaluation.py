"""Commands that score models and show results: evaluate, score, compare, ablate, report, lineage."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.manifest import open_source, publish, write_json
from emoverse.cli.options import add_params, parameters_from, validated_folders, whole_number
from emoverse.config import AmtParams, MixtureParams, Params, plain
from emoverse.errors import UserError, did_you_mean
from emoverse.report.scores import ablation_rows
from emoverse.tasks import task as task_named

NO_STAGE: Final = "without-stage1"


def add_evaluate_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="output of train, base-model or export"
    )
    parser.add_argument("--amt", type=Path, required=True, metavar="DIR", help="output of build-amt")
    parser.add_argument("--validated", type=Path, nargs="+", required=True, metavar="DIR", help="outputs of validate")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to publish")
    parser.add_argument("--engine", choices=("torch", "onnx"), help="short for --set evaluate.engine=...")
    add_params(parser)


def run_evaluate(args: argparse.Namespace) -> None:
    """Run the step."""
    from emoverse.evaluation.evaluate import evaluate

    if args.engine:
        args.set = [*args.set, f"evaluate.engine={args.engine}"]
    params = parameters_from(args)
    evaluate(args.model, args.amt, validated_folders(args, params), args.out, params.evaluate)


def add_score_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="replies, in any of the formats")
    parser.add_argument("--task", required=True, metavar="TASK", help="name of the task, for example mer")
    _add_format(parser)
    parser.add_argument("--gold", type=Path, metavar="FILE", help="the test set; refuse missing, extra or changed rows")
    parser.add_argument(
        "--corpus", default="", metavar="NAME", help="corpus whose labels are used, if the rows do not name one"
    )
    parser.add_argument(
        "--bootstrap", type=whole_number(), default=1000, metavar="N", help="resamples for the intervals (default 1000)"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="seed of the resamples (default 0)")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="eri: settings of an endpoint that scores reasons")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_format(parser: argparse.ArgumentParser) -> None:
    projects = "ms-swift, lmms-eval, vlmevalkit, mmsa, affectgpt, emotion-llama, table"
    parser.add_argument("--format", default="auto", metavar="NAME", help=f"{projects} (default: recognised)")


def run_score(args: argparse.Namespace) -> None:
    """Print the scores; raise UserError for an unknown corpus."""
    from emoverse.corpora import get_corpus
    from emoverse.evaluation.score_file import as_table, score_file

    if args.corpus:
        get_corpus(args.corpus)
    result = score_file(
        args.predictions,
        args.task,
        gold=args.gold,
        corpus=args.corpus,
        bootstrap=args.bootstrap,
        seed=args.seed,
        judge=args.judge,
        format=args.format,
    )
    print(json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False) if args.json else as_table(result))
    _warn(result["warnings"])


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def add_compare_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("one", type=Path, metavar="A", help="predictions of one model")
    parser.add_argument("other", type=Path, metavar="B", help="predictions of the other")
    parser.add_argument("--task", required=True, metavar="TASK", help="name of the task, for example mer")
    _add_format(parser)
    parser.add_argument("--gold", type=Path, metavar="FILE", help="the test set both must answer")
    parser.add_argument(
        "--bootstrap", type=whole_number(), default=1000, metavar="N", help="resamples for the interval (default 1000)"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="seed of the resamples (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run_compare(args: argparse.Namespace) -> None:
    """Print the difference and its interval."""
    from emoverse.evaluation.score_file import compare_files

    options = {"gold": args.gold, "bootstrap": args.bootstrap, "seed": args.seed, "format": args.format}
    result = compare_files(args.one, args.other, args.task, **options)
    _warn(result["warnings"])
    if args.json:
        print(json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False))
        return
    low, high = result["interval"]
    print(f"{result['headline']}: A {result['one']:.4f}, B {result['other']:.4f}, on {result['n']} records")
    print(f"B - A: {result['difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}")
    for name, key in (("A", "one"), ("B", "other")):
        flaws = result["flaws"][key].items()
        print(f"{name}: " + ", ".join(f"{count} {flaw} ({count / result['n']:.1%})" for flaw, count in flaws))
    print(f"B is not better in {result['not_better']:.1%} of the resamples")


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--validated", type=Path, nargs="+", required=True, metavar="DIR", help="outputs of validate")
    parser.add_argument("--amt", type=Path, required=True, metavar="DIR", help="output of build-amt")
    parser.add_argument(
        "--stages", type=Path, nargs=3, required=True, metavar="DIR", help="base model, stage 1, stage 2"
    )
    parser.add_argument("--scores", type=Path, required=True, metavar="DIR", help="output of evaluate")
    parser.add_argument("--onnx", type=Path, required=True, metavar="DIR", help="output of export")
    parser.add_argument("--ablations", type=Path, metavar="DIR", help="output of ablate, for a table of ablations")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to publish")
    add_params(parser)


def run_report(args: argparse.Namespace) -> None:
    """Run the step."""
    params = parameters_from(args)
    from emoverse.report.report import report

    report(validated_folders(args, params), args.amt, args.stages, args.scores, args.onnx, args.out, args.ablations)
    print(f"the page: {args.out / 'index.html'}")


def add_lineage_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("path", type=Path, metavar="PATH", help="an output folder, or a file in one")
    parser.add_argument("--json", action="store_true", help="print the tree as JSON")
    parser.add_argument("--check", action="store_true", help="check every byte of the folder against its manifest too")
    parser.add_argument(
        "--repo",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="the checkout whose .dvc files and commit are named (default: here)",
    )


def run_lineage(args: argparse.Namespace) -> None:
    """Print the chain from an output back to the raw corpora and the .dvc files that name them."""
    from emoverse.artifacts.lineage import as_json, as_lines, dvc_files, folder_of, made_by_other_code, revision, trace
    from emoverse.artifacts.manifest import open_source
    from emoverse.errors import UserError

    folder = folder_of(args.path)
    if not args.repo.is_dir():
        raise UserError("no such folder", place=str(args.repo), remedy="give the checkout's root to --repo")
    if args.check:
        open_source(folder)
    top, tracked = trace(folder), dvc_files(args.repo)
    commit, other = revision(args.repo), made_by_other_code(top)
    if args.json:
        tree = as_json(top, tracked)
        result = {"revision": commit, "made_by_other_code": other, **tree}
        print(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
        return
    print("\n".join(as_lines(top, tracked)))
    print(f"\ncode: {_of_code(commit, other)}")
    if args.check:
        print("checked: every byte of the folder is as its manifest says")


def _of_code(commit: str, other: list[str]) -> str:
    here = f"this checkout's ({commit})" if commit else "this installation's"
    return f"{here}, except for {', '.join(other)}: other code made them" if other else f"all of it {here}"


@dataclass(frozen=True)
class Variant:
    """One ablation: its name in folders, what people read, and the task that is left out (empty: stage 1 is)."""

    name: str
    title: str
    task: str = ""


def add_ablate_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--validated", type=Path, nargs="+", required=True, metavar="DIR", help="outputs of validate")
    parser.add_argument(
        "--amt", type=Path, required=True, metavar="DIR", help="output of build-amt, of the whole model"
    )
    parser.add_argument("--base", type=Path, required=True, metavar="DIR", help="the model that stage 1 starts from")
    parser.add_argument(
        "--scores", type=Path, required=True, metavar="DIR", help="output of evaluate, of the whole model"
    )
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="only these ablations (default: all)")
    parser.add_argument("--work", type=Path, default=Path("scratch/ablations"), metavar="DIR", help="models and scores")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to publish the table in")
    add_params(parser)


def run_ablate(args: argparse.Namespace) -> None:
    """Train and score each variant, publish their scores beside the whole model's, and print them.

    A variant whose scores are finished in ``--work`` and belong to the same inputs and parameters is not run again.

    Raises:
        UserError: A variant is unknown, or an input is not finished.
    """
    params = parameters_from(args)
    chosen = _chosen(variants(params.amt), args.only)
    folders = validated_folders(args, params)
    sources = {"amt": open_source(args.amt, made_by="build-amt"), "base": open_source(args.base)}
    sources["scores"] = open_source(args.scores, made_by="evaluate")
    results = {"scores": sources["scores"]}
    for variant in chosen:
        print(f"{variant.title} ...", flush=True)
        results[variant.name] = open_source(_scores_of(variant, args, params, folders))
    rows = ablation_rows(results["scores"].path, {variant.title: results[variant.name].path for variant in chosen})
    settings = {"variants": [variant.name for variant in chosen]}
    with publish(args.out, step="ablate", params=settings, inputs={**sources, **results}, code_of="evaluate") as draft:
        write_json(draft.path / "ablations.json", rows)
    print(table(rows))


def variants(amt: AmtParams) -> list[Variant]:
    """Return the ablations that a mixture allows: one without stage 1, and one without each task."""
    names = sorted({*amt.stage1.tasks, *amt.stage2.tasks}, key=lambda name: task_named(name).rank)
    without = [Variant(f"without-{name}", f"without {task_named(name).title}", name) for name in names]
    return [Variant(NO_STAGE, "without stage 1"), *without]


def _chosen(known: list[Variant], only: list[str]) -> list[Variant]:
    names = [variant.name for variant in known]
    for name in only:
        if name not in names:
            raise UserError(f"unknown ablation {name!r}", place="--only", remedy=did_you_mean(name, names))
    return [variant for variant in known if not only or variant.name in only]


def _scores_of(variant: Variant, args: argparse.Namespace, params: Params, folders: list[Path]) -> Path:
    """Return the folder of a variant's scores."""
    from emoverse.amt.build_amt import build_amt
    from emoverse.evaluation.evaluate import evaluate
    from emoverse.training.train import train
    from emoverse.validation.amt_rows import check_folder

    work, amt, model = Path(args.work) / variant.name, Path(args.amt), Path(args.base)
    mixture = without_task(params.amt, variant.task) if variant.task else params.amt
    wanted = {"amt": plain(mixture), "stage1": plain(params.stage1), "stage2": plain(params.stage2)}
    wanted |= {"evaluate": plain(params.evaluate)}
    wanted |= {"inputs": {"amt": open_source(amt).digest, "base": open_source(model).digest}}
    if _is_finished(work, wanted):
        return work / "scores"
    if variant.task:
        amt = work / "amt"
        build_amt(folders, amt, mixture, check=check_folder)
    stages = {"stage1": params.stage1, "stage2": params.stage2}
    if not variant.task:
        stages.pop("stage1")
    for name, settings in stages.items():
        # An adapter of a stage that was left out cannot be continued.
        train(name, model, amt, folders, work / name, _changed(settings, start="merged"))
        model = work / name
    # The questions of the whole model's test sets, also those of the task that was not trained.
    evaluate(model, args.amt, folders, work / "scores", params.evaluate)
    write_json(work / "settings.json", wanted)
    return work / "scores"


def _is_finished(work: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether a variant was scored with these settings and inputs."""
    path = work / "settings.json"
    return path.is_file() and json.loads(path.read_text("utf-8")) == json.loads(json.dumps(settings, allow_nan=False))


def without_task(amt: AmtParams, task: str) -> AmtParams:
    """Return the mixtures without a task; raise UserError when a stage would have no task left."""

    def less(name: str, mixture: MixtureParams) -> MixtureParams:
        kept = {key: weight for key, weight in mixture.tasks.items() if key != task}
        if not any(kept.values()):
            raise UserError(
                f"without {task}, {name} has no task", place=f"amt.{name}.tasks", remedy="leave it out of --only"
            )
        caps = {key: cap for key, cap in mixture.caps.items() if key != task}
        changed: MixtureParams = _changed(mixture, tasks=kept, caps=caps)
        return changed

    changed: AmtParams = _changed(amt, stage1=less("stage1", amt.stage1), stage2=less("stage2", amt.stage2))
    return changed


def _changed(section: Any, **values: Any) -> Any:
    """Return a section of the parameters with other values."""
    return replace(section, **values)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the scores as text: one line a model, one column a task."""
    names = list(rows[0]["tasks"])
    width = max(len(row["title"]) for row in rows)
    lines = [" ".join([" " * width, *(f"{name:>20}" for name in names)])]
    for row in rows:
        cells = [_cell(row["tasks"].get(name)) for name in names]
        lines.append(" ".join([f"{row['title']:<{width}}", *(f"{cell:>20}" for cell in cells)]))
    return "\n".join(lines)


def _cell(score: Mapping[str, float] | None) -> str:
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]" if score else "-"
