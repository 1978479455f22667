"""Compute the cache key of every task of a compiled pipeline, as Kubeflow's driver does.

With one difference: instead of the name that the metadata store gave an artifact, a key contains the key of the task
that makes it. So two runs can be compared before the second one starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emoverse.artifacts.digests import digest_of_value
from emoverse.compat.kfp import whole_numbers


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
    """Return step -> cache key for every task of a run, as Kubeflow Pipelines 2.17 forms it.

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
