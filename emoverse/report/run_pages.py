"""Write the pages at the end of a run: a comparison over seeds, and the status of the run."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emoverse.artifacts.lineage import tree_of
from emoverse.artifacts.manifest import open_source, write_json
from emoverse.errors import UserError
from emoverse.report.scores import headlines


@dataclass(frozen=True)
class OverSeeds:
    """One task's headline score by seed."""

    task: str
    metric: str
    by_seed: dict[int, float]

    @property
    def mean(self) -> float:
        """Return the mean over seeds."""
        return statistics.fmean(self.by_seed.values())

    @property
    def deviation(self) -> float:
        """Return the sample's standard deviation over seeds; 0 for one."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else 0.0


@dataclass(frozen=True)
class SeedComparison:
    """Trainings that differ in their seed: test scores by task, and the validation score of each seed.

    ``validation`` is the mean headline score over the validation sets; empty unless every model has one.
    """

    tasks: list[OverSeeds]
    validation: dict[int, float]

    @property
    def best_seed(self) -> int | None:
        """Return the seed with the best validation score, the lowest of equal ones; None without validation scores."""
        return max(sorted(self.validation), key=self.validation.__getitem__) if self.validation else None


def over_seeds(scores: Sequence[Path]) -> SeedComparison:
    """Read outputs of evaluate; return each task's score by the seed of the model's training.

    Raises:
        UserError: Two have the same seed, or they do not have the same tasks.
    """
    folders: dict[int, Path] = {}
    for folder in scores:
        seed = _seed(folder)
        if seed in folders:
            problem = f"trained with seed {seed}, as {folders[seed]} was"
            raise UserError(problem, place=str(folder), remedy="give each seed once")
        folders[seed] = folder
    scores_of: dict[tuple[str, str], dict[int, float]] = {}
    for seed, folder in sorted(folders.items()):
        for head in headlines(folder):
            scores_of.setdefault((head.task, head.metric), {})[seed] = head.value
    for (task, _), by_seed in scores_of.items():
        if by_seed.keys() != folders.keys():
            missing = sorted(folders.keys() - by_seed.keys())
            raise UserError(
                f"no score of {task} for seeds {missing}", place="scores", remedy="score the same test sets"
            )
    tasks = [OverSeeds(task, metric, by_seed) for (task, metric), by_seed in scores_of.items()]
    files = {seed: folder / "validation.json" for seed, folder in sorted(folders.items())}
    validated = all(path.is_file() for path in files.values())
    read = {seed: float(json.loads(path.read_text("utf-8"))["score"]) for seed, path in files.items() if validated}
    return SeedComparison(tasks, read)


def as_markdown(comparison: SeedComparison) -> str:
    """Return a table with a row per task: mean, standard deviation, and each seed's score.

    Validation scores come first, with the seed that they choose: choosing by the test scores would bias these.
    """
    rows = [*comparison.tasks]
    if comparison.validation:
        rows.insert(0, OverSeeds("validation", "mean score", comparison.validation))
    seeds = list(rows[0].by_seed) if rows else []
    head = ["task", "score", "mean", "sd", *(f"seed {seed}" for seed in seeds)]
    cells = [
        [row.task, row.metric, *(f"{v:.4f}" for v in (row.mean, row.deviation, *row.by_seed.values()))] for row in rows
    ]
    lines = [head, ["---"] * len(head), *cells]
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    if comparison.validation:
        table += f"\nSeed {comparison.best_seed} has the best validation score. Choose by it; report the test scores.\n"
    return table


def _seed(scores: Path) -> int:
    top = tree_of(open_source(scores, made_by="evaluate").manifest)
    model = top.inputs["model"]
    if "seed" not in model.record.get("params", {}):
        raise UserError("the model scored was not trained", place=str(scores), remedy="score a trained model")
    return int(model.record["params"]["seed"])


PAGE, STATUS = "index.html", "status.json"


def publish_page(page: Path, run: str, publish: str) -> None:
    """Copy a run's report into its folder below ``publish``, whole or not at all."""
    folder = _folder(run, publish)
    draft = folder / f".{PAGE}.tmp"
    shutil.copyfile(page, draft)
    draft.replace(folder / PAGE)


def end_of(state: str, *, reported: bool) -> str:
    """Return what became of a run: SUCCEEDED, FAILED, or STOPPED where no end was recorded.

    Args:
        state: State of the group of steps before the exit handler. kfp's local runner says SUCCEEDED or FAILED; the
            server passes on the state in ML Metadata. It is COMPLETE after a success, but stays RUNNING when a person
            terminates the run or a pod is lost, and also after a success when all steps of a loop came from the cache.
        reported: Whether the run's page was published, which its last step does.
    """
    ends = {"COMPLETE": "SUCCEEDED", "SUCCEEDED": "SUCCEEDED", "FAILED": "FAILED"}
    return "SUCCEEDED" if reported else ends.get(state, "STOPPED")


def write_status(run: str, *, name: str, state: str, task: str, problem: str, publish: str = "") -> str:
    """Return a run's final state as Markdown; with ``publish``, also write ``status.json`` beside its report there.

    Args:
        run: The run's unique id, usable as a folder name.
        name: The name that its user gave it.
        state: The state that Kubeflow gives to its exit handler; `end_of` reads it.
        task: The task that it stopped in.
        problem: Kubeflow's message about the failure; may be empty.
        publish: Folder of all runs' reports. Empty: none.
    """
    folder = _folder(run, publish) if publish else None
    reported = folder is not None and (folder / PAGE).is_file()
    state = end_of(state, reported=reported)
    lines = [f"# {name}: {state}", ""]
    if state == "STOPPED":
        words = (
            "A person terminated it, or a pod was lost: `emoverse retry` continues it. A sweep that came from the cache"
        )
        lines += [f"{words} also ends so.", ""]
    if state == "FAILED":
        lines += [f"Stopped in `{task}`" + (f": {problem}" if problem else "."), ""]
        lines += ["The failed step's error message is in its log; a new run takes finished steps from the cache.", ""]
    if folder is not None:
        status = {"run": run, "name": name, "state": state, "task": task, "problem": problem, "report": reported}
        write_json(folder / STATUS, status)
        lines.append(f"Report: `{folder / PAGE}`" if reported else f"No report was written to `{folder}`.")
    return "\n".join(lines).rstrip() + "\n"


def _folder(run: str, publish: str) -> Path:
    root = Path(publish)
    if not root.is_dir():
        raise UserError("no such folder", place=publish, remedy="mount the volume of the cluster profile's `publish`")
    if Path(run).name != run or run in ("", ".", ".."):
        raise UserError(f"{run!r} cannot be a folder name", place="run", remedy="give the run a plain name")
    folder = root / run
    folder.mkdir(exist_ok=True)
    return folder
