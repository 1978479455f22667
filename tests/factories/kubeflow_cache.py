"""Which tasks of a compiled pipeline Kubeflow would run again: its rule for cache keys, applied to a whole run.

Kubeflow compares a task's image, command, parameters and the ids of the artifacts it reads; a task that runs makes
new artifacts, so all that read them run too. Content, environment variables and time play no part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from emoverse.artifacts.digests import digest_of_value

Keys = dict[str, str]


def keys_of(pipeline: Mapping[str, Any], arguments: Mapping[str, Any]) -> Keys:
    """Return the cache key of every task of a run, by name; of a corpus's tasks, by ``name@corpus``."""
    parameters = pipeline["root"]["inputDefinitions"]["parameters"]
    given = {name: arguments.get(name, one.get("defaultValue")) for name, one in parameters.items()}
    keys: Keys = {}
    _dag(pipeline, pipeline["root"]["dag"], given, {}, "", keys)
    return keys


def missed(before: Keys, after: Keys) -> set[str]:
    """Return the tasks that run again."""
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def _dag(pipeline: Any, dag: Any, parameters: Any, artifacts: Any, suffix: str, keys: Keys) -> dict[str, Any]:
    made: dict[str, dict[str, Any]] = {}
    waiting = dict(dag["tasks"])
    while waiting:
        name = next(n for n, t in waiting.items() if not set(t.get("dependentTasks", [])) & waiting.keys())
        made[name] = _task(pipeline, name, waiting.pop(name), parameters, artifacts, made, suffix, keys)
    outputs = dag.get("outputs", {}).get("artifacts", {})
    return {k: _selected(made, o["artifactSelectors"][0]) for k, o in outputs.items()}


def _task(
    pipeline: Any, name: str, task: Any, parameters: Any, artifacts: Any, made: Any, suffix: str, keys: Keys
) -> dict[str, Any]:
    component = pipeline["components"][task["componentRef"]["name"]]
    inputs = task.get("inputs", {})
    read = {
        k: artifacts[one["componentInputArtifact"]] if "componentInputArtifact" in one
        else made[one["taskOutputArtifact"]["producerTask"]][one["taskOutputArtifact"]["outputArtifactKey"]]
        for k, one in inputs.get("artifacts", {}).items()
    }  # fmt: skip
    if "parameterIterator" not in task:
        given = {k: _value(one, parameters) for k, one in inputs.get("parameters", {}).items()}
        return _run(pipeline, name, component, given, read, suffix, keys)
    loop = task["parameterIterator"]
    items = loop["items"]
    values = json.loads(items["raw"]) if "raw" in items else parameters[items["inputParameter"]]
    collected: dict[str, Any] = {}
    for item in values:
        given = {k: _value(one, parameters) for k, one in inputs.get("parameters", {}).items()} | {
            loop["itemInput"]: item
        }
        place = f"{suffix}@{item['corpus'] if isinstance(item, dict) else item}"
        for key, value in _run(pipeline, name, component, given, read, place, keys).items():
            collected.setdefault(key, []).append(value)
    return collected


def _run(pipeline: Any, name: str, component: Any, given: Any, read: Any, suffix: str, keys: Keys) -> dict[str, Any]:
    if "dag" in component:
        return _dag(pipeline, component["dag"], given, read, suffix, keys)
    executor = pipeline["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
    known = {k: executor[k] for k in ("image", "command", "args")}
    key = digest_of_value([known, given, read])
    keys[name + suffix] = key
    return {output: f"{key}/{output}" for output in component.get("outputDefinitions", {}).get("artifacts", {})}


def _value(one: Any, parameters: Any) -> Any:
    if "runtimeValue" in one:
        return one["runtimeValue"]["constant"]
    if "componentInputParameter" not in one:
        return None  # the status an exit handler reads
    value = parameters[one["componentInputParameter"]]
    if selector := one.get("parameterExpressionSelector"):
        return value[selector.split('"')[1]]
    return value


def _selected(made: Any, selector: Any) -> Any:
    return made[selector["producerSubtask"]][selector["outputArtifactKey"]]
