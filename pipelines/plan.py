"""Predict which steps a submission or ``dvc repro`` will run, and why; the others come from a cache."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from emoverse.artifacts.digests import digest_of_value, fingerprints
from emoverse.compat.dvc import changed_stages
from emoverse.compat.kfp import whole_numbers
from emoverse.config import Params, plain
from emoverse.errors import UserError
from pipelines.cluster import is_below
from pipelines.kubeflow_api import KubeflowApi
from pipelines.options import PipelineOptions
from pipelines.pipeline import NAME, compile_to
from pipelines.runs import Follower, Run

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
    runs = []
    for entry in api.runs(namespace=namespace, count=_RUNS):
        documents = api.documents_of(entry)
        if not documents or documents[0].get("pipelineInfo", {}).get("name", "").rpartition("/")[2] != NAME:
            continue
        keys = cache_keys(documents, (entry.get("runtime_config") or {}).get("parameters") or {})
        _, steps = Follower(api, Run(entry["run_id"], "")).look()
        done = [step for step in steps if step.state in ("succeeded", "cached")]
        seconds = {step.name: step.seconds for step in done if step.state == "succeeded"}
        runs.append(EarlierRun(keys, frozenset(step.name for step in done), seconds))
    return runs


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


@dataclass(frozen=True)
class TaskKey:
    """What a task's cache key is made of.

    Attributes:
        digest: The key.
        own: Image, command, environment and parameters, the latter by the name of the pipeline's parameter.
        inputs: Name of the task -> its key, for each task whose output is read.
        cacheable: Whether the task may be taken from the cache at all.
    """

    digest: str
    own: Mapping[str, Any]
    inputs: Mapping[str, str]
    cacheable: bool = True


def cache_keys(
    documents: Sequence[Any], arguments: Mapping[str, Any], *, with_environment: bool = False
) -> dict[str, TaskKey]:
    """Return step -> cache key for every task of a run, as the driver of Kubeflow Pipelines 2.17 forms it.

    With one difference: instead of the name that the metadata store gave an artifact, a key contains the key of the
    task that makes it. So two runs can be compared before the second one starts.

    Args:
        documents: The YAML documents of the compiled pipeline.
        arguments: The run's parameters; others keep their defaults.
        with_environment: Add the environment to the key, as later versions do (kubeflow/pipelines 14339).
    """
    return _Keys(documents, with_environment).of(arguments)


@dataclass(frozen=True)
class _Value:
    """A parameter's value and the name under which a person knows it."""

    value: Any
    name: str


class _Keys:
    def __init__(self, documents: Sequence[Any], with_environment: bool) -> None:
        self._spec = documents[0].get("pipeline_spec", documents[0])
        platform = documents[1] if len(documents) > 1 and documents[1] else {}
        kubernetes = platform.get("platforms", {}).get("kubernetes", {})
        self._pods = kubernetes.get("deploymentSpec", {}).get("executors", {})
        self._with_environment = with_environment
        self._keys: dict[str, TaskKey] = {}

    def of(self, arguments: Mapping[str, Any]) -> dict[str, TaskKey]:
        root = self._spec["root"]
        parameters = {
            name: _Value(whole_numbers(arguments.get(name, parameter.get("defaultValue"))), name)
            for name, parameter in root["inputDefinitions"]["parameters"].items()
        }
        self._dag(root["dag"], parameters, {}, "")
        return self._keys

    def _dag(
        self, dag: Any, parameters: Mapping[str, _Value], artifacts: Mapping[str, Any], suffix: str
    ) -> dict[str, Any]:
        made: dict[str, dict[str, Any]] = {}
        waiting = dict(dag["tasks"])
        while waiting:
            name = next(n for n, t in waiting.items() if not set(t.get("dependentTasks", [])) & waiting.keys())
            made[name] = self._task(waiting.pop(name), parameters, artifacts, made, suffix)
        outputs = dag.get("outputs", {}).get("artifacts", {})
        selectors = {key: output["artifactSelectors"][0] for key, output in outputs.items()}
        return {key: made[s["producerSubtask"]][s["outputArtifactKey"]] for key, s in selectors.items()}

    def _task(
        self, task: Any, parameters: Mapping[str, _Value], artifacts: Mapping[str, Any], made: Any, suffix: str
    ) -> dict[str, Any]:
        inputs = task.get("inputs", {})
        read = {}
        for key, source in inputs.get("artifacts", {}).items():
            output = source.get("taskOutputArtifact")
            read[key] = (
                made[output["producerTask"]][output["outputArtifactKey"]]
                if output
                else artifacts[source["componentInputArtifact"]]
            )
        given = {key: _resolve(source, parameters) for key, source in inputs.get("parameters", {}).items()}
        if "parameterIterator" not in task:
            return self._run(task, given, read, suffix)
        loop = task["parameterIterator"]
        items = loop["items"]
        source = parameters.get(items.get("inputParameter", "")) or given.get(items.get("inputParameter", ""))
        values = json.loads(items["raw"]) if "raw" in items else source.value if source else []
        collected: dict[str, Any] = {}
        for item in values:
            name = str(item.get("corpus")) if isinstance(item, Mapping) else str(item)
            inner = {**given, loop["itemInput"]: _Value(item, name)}
            for key, value in self._run(task, inner, read, f"{suffix} {name}").items():
                collected.setdefault(key, []).append(value)
        return collected

    def _run(self, task: Any, given: Mapping[str, _Value], read: Mapping[str, Any], suffix: str) -> dict[str, Any]:
        component = self._spec["components"][task["componentRef"]["name"]]
        if "dag" in component:
            return self._dag(component["dag"], given, read, suffix)
        label = component["executorLabel"]
        executor = self._spec["deploymentSpec"]["executors"][label]
        outputs = component.get("outputDefinitions", {}).get("artifacts", {})
        name = f"{task['taskInfo']['name']}{suffix}"
        if "importer" in executor:  # no pod, no cache entry: the artifact is known by its address
            identity = json.dumps(executor["importer"]["artifactUri"])
            return dict.fromkeys(outputs, (name, digest_of_value(identity)))
        container = executor["container"]
        own: dict[str, Any] = {key: container[key] for key in ("image", "command", "args")}
        own["command"] = digest_of_value(own["command"])
        if claims := [mount.get("constant") or mount for mount in self._pods.get(label, {}).get("pvcMount", [])]:
            own["volumes"] = claims
        if self._with_environment:
            own["environment"] = {entry["name"]: entry["value"] for entry in container.get("env", [])}
        named = {value.name or key: value.value for key, value in given.items()}
        sources = dict(_flatten(read.values()))
        key = digest_of_value([own, {k: v.value for k, v in given.items()}, {k: str(v) for k, v in read.items()}])
        cacheable = bool(task.get("cachingOptions", {}).get("enableCache"))
        self._keys[name] = TaskKey(key, {**own, **named}, sources, cacheable)
        return {output: (name, f"{key}/{output}") for output in outputs}


def _flatten(values: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for value in values:
        if isinstance(value, list):
            yield from _flatten(value)
        else:
            yield value


def _resolve(source: Any, parameters: Mapping[str, _Value]) -> _Value:
    if "runtimeValue" in source:
        return _Value(whole_numbers(source["runtimeValue"]["constant"]), "")
    if "componentInputParameter" not in source:
        return _Value(None, "")  # the status that an exit handler reads
    origin = parameters[source["componentInputParameter"]]
    if selector := source.get("parameterExpressionSelector"):
        key = selector.split('"')[1]
        return _Value(origin.value[key], f"{origin.name}.{key}")
    return origin
