"""Predict which steps a submission or ``dvc repro`` will run, and why; the others come from a cache."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from emoverse.artifacts.source_digest import fingerprints
from emoverse.compat.dvc import changed_stages
from emoverse.config import Params, plain
from emoverse.errors import UserError
from pipelines.cache_keys import TaskKey, cache_keys
from pipelines.cluster import is_below
from pipelines.kubeflow_api import KubeflowApi
from pipelines.options import PipelineOptions
from pipelines.pipeline import NAME, compile_to
from pipelines.watch import Follower, Run

_RUNS: Final = 20  # of the server's latest, which are compared with
_SHOWN: Final = 40  # characters of a value in a reason


@dataclass(frozen=True)
class Planned:
    """One step of a plan: why it will run; empty for a step that comes from the cache. ``seconds``: last duration."""

    name: str
    reason: str = ""
    seconds: float | None = None

    def line(self) -> str:
        """Return one line for a person."""
        return f"{'run' if self.reason else 'cached':7} {self.name}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class EarlierRun:
    """A run to compare with: its keys, the steps that succeeded in it, and their durations in seconds."""

    keys: Mapping[str, TaskKey]
    finished: frozenset[str]
    seconds: Mapping[str, float] = field(default_factory=dict)


def plan_of_submission(
    params: Params, options: PipelineOptions, arguments: Mapping[str, Any], *, host: str, namespace: str = ""
) -> list[Planned]:
    """Return what a submission will run, compared with the latest runs of this pipeline on the server.

    Args:
        params: Parameters of the run.
        options: How the pipeline is compiled.
        arguments: The pipeline's arguments.
        host: Address of Kubeflow Pipelines.
        namespace: Namespace on a cluster with several users.
    """
    with tempfile.TemporaryDirectory() as folder:
        compile_to(Path(folder, "p.yaml"), params, options=options)
        documents = list(yaml.load_all(Path(folder, "p.yaml").read_text("utf-8"), yaml.CSafeLoader))
    api = KubeflowApi(host)
    return plan(cache_keys(documents, arguments), earlier_runs(api, namespace))


def earlier_runs(api: KubeflowApi, namespace: str = "") -> list[EarlierRun]:
    """Return the server's latest runs of this pipeline, newest first."""
    found = []
    for entry in api.runs(namespace=namespace, count=_RUNS):
        documents = api.documents_of(entry)
        if not documents or documents[0].get("pipelineInfo", {}).get("name", "").rpartition("/")[2] != NAME:
            continue
        keys = cache_keys(documents, (entry.get("runtime_config") or {}).get("parameters") or {})
        _, steps = Follower(api, Run(entry["run_id"], "")).look()
        done = [step for step in steps if step.state in ("succeeded", "cached")]
        seconds = {step.name: step.seconds for step in done if step.state == "succeeded"}
        found.append(EarlierRun(keys, frozenset(step.name for step in done), seconds))
    return found


def plan(keys: Mapping[str, TaskKey], earlier: Sequence[EarlierRun]) -> list[Planned]:
    """Return what a run with these keys will do after the earlier ones, newest first."""
    known = {run.keys[name].digest for run in earlier for name in run.finished & run.keys.keys()}
    running: set[str] = set()
    planned = []
    for name, key in keys.items():
        before = [run for run in earlier if name in run.keys]
        seconds = next((run.seconds[name] for run in before if name in run.seconds), None)
        if key.cacheable and key.digest in known:
            planned.append(Planned(name, "", seconds))
            continue
        reason = _reason(key, before[0].keys[name], running) if before else "not run before"
        planned.append(Planned(name, reason, seconds))
        running.add(name)
    return planned


def _reason(now: TaskKey, before: TaskKey, running: set[str]) -> str:
    if not now.cacheable:
        return "never cached"
    own = list(changes(before.own, now.own))
    after = sorted(running & now.inputs.keys())
    if not own and not after:
        return "it did not finish before" if now.digest == before.digest else "reads other steps' outputs"
    return ", ".join([*own, *([f"after {', '.join(after)}"] if after and not own else [])])


def changes(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Yield one text per difference of two values: ``stage1.epochs 8 -> 9``."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            yield from changes(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
    elif before != after:
        yield f"{path} {_short(before)} -> {_short(after)}"


def _short(value: Any) -> str:
    text = "none" if value in (None, "") else str(value)
    return text if len(text) <= _SHOWN else f"{text[:12]}..."


def plan_of_workspace(params: Params, root: Path, file: Path) -> list[Planned]:
    """Return what ``dvc repro`` will run here."""
    values = plain(params)
    written = yaml.load(file.read_text("utf-8"), yaml.CSafeLoader)
    now = {"params.yaml": written, "data/fingerprints.json": json.loads(json.dumps(fingerprints(values, file.parent)))}
    return plan_of_repro(root, now, changed_stages(root))


def plan_of_repro(root: Path, now: Mapping[str, Mapping[str, Any]], status: Mapping[str, Any]) -> list[Planned]:
    """Return what ``dvc repro`` will do.

    Args:
        root: The repository, with ``dvc.lock``.
        now: File of parameters -> its values now: ``params.yaml`` and ``data/fingerprints.json``.
        status: What DVC's own ``status`` reports of changed files, by stage.

    Raises:
        UserError: Nothing was run yet, so there is nothing to compare with.
    """
    lock = root / "dvc.lock"
    if not lock.is_file():
        raise UserError("nothing was run here yet", place=str(lock), remedy="run `dvc repro`")
    locked = yaml.load(lock.read_text("utf-8"), yaml.CSafeLoader)["stages"]
    declared = yaml.load((root / "dvc.yaml").read_text("utf-8"), yaml.CSafeLoader)["stages"]
    planned: dict[str, Planned] = {}
    changed_outputs: dict[str, str] = {}  # path -> stage that will write it anew
    for name, stage in _stages_in_order(declared, now["params.yaml"]):
        if stage.get("always_changed"):
            continue
        record = locked.get(name)
        if record is None:
            reason = "not run before"
        else:
            after = sorted({changed_outputs[path] for path in changed_outputs for dep in record.get("deps", [])
                            if is_below(path, dep["path"]) or is_below(dep["path"], path)})  # fmt: skip
            own = [*_changed_parameters(record, now), *_changed_files(status.get(name, []), changed_outputs)]
            reason = ", ".join([*own, *([f"after {', '.join(after)}"] if after and not own else [])])
        planned[name] = Planned(name, reason, _seconds(root, stage))
        if reason:
            changed_outputs |= dict.fromkeys(_outputs(stage), name)
    return list(planned.values())


def _stages_in_order(declared: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(name, stage)`` as DVC names them, each after those whose outputs it reads (dvc.yaml is in order)."""
    for name, stage in declared.items():
        if "foreach" not in stage:
            yield name, stage
            continue
        key = str(stage["foreach"]).strip("${}")
        for item in params[key]:
            text = json.dumps(stage["do"]).replace("${key}", item)
            yield f"{name}@{item}", json.loads(text)


def _changed_parameters(record: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for file, values in record.get("params", {}).items():
        for key, before in values.items():
            after: Any = now.get(file, {})
            for part in key.split("."):
                after = after.get(part) if isinstance(after, Mapping) else None
            if file != "params.yaml" and isinstance(before, Mapping) and isinstance(after, Mapping):
                yield from (
                    f"{what} changed" for what in before.keys() | after.keys() if before.get(what) != after.get(what)
                )
            else:
                yield from changes(before, after, key)


def _changed_files(entries: Iterable[Any], made_anew: Mapping[str, str]) -> Iterator[str]:
    for entry in entries:
        if not isinstance(entry, Mapping):
            if entry == "changed command":
                yield "command changed"
            continue
        for path, change in (entry.get("changed deps") or {}).items():
            if isinstance(change, str) and not any(is_below(path, out) or is_below(out, path) for out in made_anew):
                yield f"{path} {change}"


def _outputs(stage: Mapping[str, Any]) -> list[str]:
    outputs = (*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", []))
    return [next(iter(out)) if isinstance(out, Mapping) else str(out) for out in outputs]


def _seconds(root: Path, stage: Mapping[str, Any]) -> float | None:
    for out in _outputs(stage):
        note = root / f"{out}.run.json"
        if note.is_file():
            return float(json.loads(note.read_text("utf-8")).get("seconds", 0)) or None
    return None


def summary(planned: Sequence[Planned]) -> str:
    """Return how many steps will run and what they took the last time."""
    runs = [step for step in planned if step.reason]
    known = [step.seconds for step in runs if step.seconds is not None]
    cost = f"; they took {sum(known):.0f} s the last time" if known else ""
    unknown = f" ({len(runs) - len(known)} of them unknown)" if known and len(known) < len(runs) else ""
    return f"{len(runs)} of {len(planned)} steps will run{cost}{unknown}"
