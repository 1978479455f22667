"""The command ``ablate``: train and score the model again without a stage, and without each task."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.manifest import open_source, publish, write_json
from emoverse.cli.options import add_params, parameters_from, validated_folders
from emoverse.config import AmtParams, MixtureParams, Params, plain
from emoverse.errors import UserError, did_you_mean
from emoverse.report.scores import ablation_rows
from emoverse.tasks import task as task_named

NO_STAGE: Final = "without-stage1"


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
        results[variant.name] = open_source(_run(variant, args, params, folders))
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


def _run(variant: Variant, args: argparse.Namespace, params: Params, folders: list[Path]) -> Path:
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
