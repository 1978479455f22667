"""Check a compiled pipeline by the rules of Kubeflow's server, which its compiler and local runner do not apply.

The rules are those of Kubeflow Pipelines 2.17: what the API server refuses, where the driver fails, what Kubernetes
refuses, and what Kubeflow ignores. The walk resolves every input of every task as the driver does, through all
levels, so that two names of one artifact are recognised as one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from emoverse.compat.kfp import WORKSPACE
from emoverse.errors import UserError
from pipelines.cluster import amount_of, is_below

WORKFLOW_BYTES: Final = 1_000_000  # of the workflow object, which holds the spec; etcd takes 1.5 MB for everything
ARGUMENT_BYTES: Final = 131_072  # of one argument of a process on Linux; the driver gets each component as one
NAME_LENGTH: Final = 63  # of a Kubernetes label, as which Argo stores a task's name
_PIPELINE_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_TASK_NAME: Final = re.compile(r"[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PER_RUN: Final = re.compile(r"\{\{\$\.pipeline_(job|task)_")  # values that differ between runs
_INPUT: Final = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "STRING": (str,), "NUMBER_INTEGER": (int, float), "NUMBER_DOUBLE": (int, float), "BOOLEAN": (bool,),
    "LIST": (list,), "STRUCT": (dict,),
}  # fmt: skip
_EXIT: Final = "ALL_UPSTREAM_TASKS_COMPLETED"


@dataclass(frozen=True)
class Fault:
    """One broken rule; ``input`` is empty where the task as a whole breaks it."""

    rule: str
    task: str
    input: str
    problem: str

    def __str__(self) -> str:
        """Return one line: task, input, problem and rule."""
        place = f"task {self.task}" + (f", input {self.input}" if self.input else "") if self.task else "pipeline"
        return f"{place}: {self.problem} [{self.rule}]"


def verify(documents: Sequence[Any], *, place: str) -> None:
    """Raise UserError naming the task, the input and the rule if the server would refuse or fail on a pipeline.

    Args:
        documents: The YAML documents of the compiled file: the pipeline, and optionally the platform settings.
        place: The file, for the message.
    """
    violations = faults(documents)
    if violations:
        more = f" (and {len(violations) - 1} more faults)" if len(violations) > 1 else ""
        remedy = "change the options named there; if you changed none, please report it"
        raise UserError(f"Kubeflow would not run this pipeline: {violations[0]}{more}", place=place, remedy=remedy)


def faults(documents: Sequence[Any]) -> list[Fault]:
    """Return every fault of a compiled pipeline."""
    specs = [document for document in documents if document and "platforms" not in document]
    platforms = [document for document in documents if document and "platforms" in document]
    if len(specs) != 1 or len(platforms) > 1:
        problem = f"{len(specs)} pipeline and {len(platforms)} platform documents, expected one and at most one"
        return [Fault("one-pipeline-per-file", "", "", problem)]
    verifier = _Verifier(specs[0], platforms[0] if platforms else {})
    verifier.run()
    return verifier.found


@dataclass(frozen=True)
class _Scope:
    """A DAG being walked: its component, where it is, and what its inputs are resolved to."""

    component: Mapping[str, Any]
    path: str
    artifacts: Mapping[str, str]
    in_loop: bool = False


@dataclass
class _Verifier:
    spec: Mapping[str, Any]
    platform: Mapping[str, Any]
    found: list[Fault] = field(default_factory=list)

    def run(self) -> None:
        self._header()
        if not self.spec.get("root", {}).get("dag"):
            self._fault("root", "", "", "the pipeline has no root with tasks")
            return
        self._sizes()
        self._defaults()
        self._dag(_Scope(self.spec["root"], "", {}))
        self._executors()
        self._kubernetes()

    def _fault(self, rule: str, task: str, name: str, problem: str) -> None:
        fault = Fault(rule, task, name, problem)
        if fault not in self.found:
            self.found.append(fault)

    def _header(self) -> None:
        version, name = self.spec.get("schemaVersion"), self.spec.get("pipelineInfo", {}).get("name", "")
        if version != "2.1.0":
            self._fault("schema-version", "", "", f"schema version {version}, the server takes only 2.1.0")
        if not _PIPELINE_NAME.fullmatch(name):
            self._fault("pipeline-name", "", "", f"{name!r} is not lower-case letters, digits, '-' and '.'")

    def _sizes(self) -> None:
        size = len(json.dumps([self.spec, self.platform]))
        if size > WORKFLOW_BYTES:
            self._fault("workflow-size", "", "", f"{size} bytes, a workflow holds at most {WORKFLOW_BYTES}")
        for name, component in self.spec["components"].items():
            if len(json.dumps(component)) > ARGUMENT_BYTES:
                self._fault("argument-size", name, "", f"the component is longer than {ARGUMENT_BYTES} bytes")
        defaults = {k: p.get("defaultValue") for k, p in _parameters(self.spec["root"]).items()}
        if len(json.dumps(defaults)) > ARGUMENT_BYTES:
            self._fault("argument-size", "", "", f"the default parameters are longer than {ARGUMENT_BYTES} bytes")

    def _defaults(self) -> None:
        for name, parameter in _parameters(self.spec["root"]).items():
            if parameter.get("defaultValue") is not None:
                self._constant("", name, parameter["defaultValue"], parameter.get("parameterType"))

    def _constant(self, task: str, name: str, value: Any, kind: str | None) -> None:
        expected = _KINDS.get(kind or "", ())
        # The driver turns any other value into text for a parameter of type STRING.
        if not expected:
            self._fault("parameter-type", task, name, f"the server knows no parameter type {kind}")
        elif kind != "STRING" and (not isinstance(value, expected) or (isinstance(value, bool) and kind != "BOOLEAN")):
            self._fault("parameter-type", task, name, f"{value!r} is not of type {kind}")

    def _dag(self, scope: _Scope) -> dict[str, str]:
        """Check the tasks of a DAG; return output name -> identity of the artifact."""
        tasks = scope.component["dag"]["tasks"]
        if all(_is_exit(task) for task in tasks.values()):
            self._fault("tasks", scope.path, "", "the group has no task but exit handlers")
        made: dict[str, dict[str, str]] = {}
        waiting = dict(tasks)
        while waiting:
            ready = [n for n, t in waiting.items() if not set(t.get("dependentTasks", [])) & waiting.keys()]
            if not ready:
                self._fault("dependencies", min(waiting), "", f"depends on itself through {', '.join(sorted(waiting))}")
                return {}
            for name in ready:
                made[name] = self._task(scope, name, waiting.pop(name), tasks, made)
        outputs = scope.component["dag"].get("outputs", {}).get("artifacts", {})
        return {name: self._selected(scope, name, output, made) for name, output in outputs.items()}

    def _selected(self, scope: _Scope, name: str, output: Any, made: Mapping[str, Mapping[str, str]]) -> str:
        for selector in output.get("artifactSelectors", []):
            identity = made.get(selector["producerSubtask"], {}).get(selector["outputArtifactKey"])
            if identity:
                return identity
            problem = f"no task {selector['producerSubtask']} with an output {selector['outputArtifactKey']}"
            self._fault("output", scope.path, name, problem)
        return f"{scope.path}/?{name}"

    def _task(
        self, scope: _Scope, name: str, task: Mapping[str, Any], siblings: Mapping[str, Any], made: Mapping[str, Any]
    ) -> dict[str, str]:
        """Check one task; return output name -> identity of the artifact."""
        path = f"{scope.path}/{name}".lstrip("/")
        if len(name) > NAME_LENGTH or not _TASK_NAME.fullmatch(name):
            self._fault("task-name", path, "", f"not a name of at most {NAME_LENGTH} letters, digits and '-'")
        for missing in set(task.get("dependentTasks", [])) - siblings.keys():
            self._fault("dependencies", path, "", f"depends on {missing}, which is not beside it")
        component = self.spec["components"].get(task.get("componentRef", {}).get("name"))
        if component is None:
            self._fault("component", path, "", f"no component {task.get('componentRef', {}).get('name')!r}")
            return {}
        self._policies(path, task, component)
        item = self._iterator(scope, path, task)
        self._task_parameters(scope, path, task, component, item, siblings)
        artifacts = self._task_artifacts(scope, path, task, component, siblings, made)
        outputs = component.get("outputDefinitions", {}).get("artifacts", {})
        if "dag" in component:
            inner = _Scope(component, path, artifacts, scope.in_loop or bool(item))
            made_inside = self._dag(inner)
            # A loop's output is the list of all iterations', another artifact than the one inside.
            return {k: f"[{v}]" for k, v in made_inside.items()} if item else made_inside
        return {key: f"{path}.{key}" for key in outputs}

    def _policies(self, path: str, task: Mapping[str, Any], component: Mapping[str, Any]) -> None:
        executor = self._executor(component)
        if "retryPolicy" in task:
            if "dag" in component or "importer" in executor:
                self._fault("ignored-retry", path, "", "Kubeflow retries containers, not groups, loops and importers")
            elif not task["retryPolicy"].get("maxRetryCount"):
                self._fault("ignored-retry", path, "", "a retry policy with no retries")
        if task.get("triggerPolicy", {}).get("condition") and "importer" in executor:
            self._fault("importer-condition", path, "", "Kubeflow supports no condition on an importer")
        if _is_exit(task) and len(task.get("dependentTasks", [])) != 1:
            self._fault("exit-task", path, "", "an exit task must follow exactly one task or group")
        if _is_exit(task) and task.get("inputs", {}).get("artifacts"):
            self._fault("exit-task", path, "", "an exit task cannot read artifacts: their task may not have run")

    def _iterator(self, scope: _Scope, path: str, task: Mapping[str, Any]) -> str:
        """Check a loop's items; return the name of its item parameter, empty for a task that is no loop."""
        if "artifactIterator" in task:
            self._fault("loop-items", path, "", "Kubeflow cannot loop over artifacts")
        if "parameterIterator" not in task:
            return ""
        items, item = task["parameterIterator"].get("items", {}), task["parameterIterator"].get("itemInput", "")
        if not item:
            self._fault("loop-items", path, "", "the loop names no parameter for its item")
        if "raw" in items:
            try:
                values = json.loads(items["raw"])
            except ValueError:
                values = None
            if not isinstance(values, list) or not values:
                self._fault("loop-items", path, item, f"{items['raw']!r} is not a list with items")
        else:
            source = items.get("inputParameter", "")
            known = {**_parameters(scope.component), **task.get("inputs", {}).get("parameters", {})}
            if source not in known:
                self._fault("loop-items", path, item, f"the list {source!r} is not an input of the loop")
            elif _parameters(scope.component).get(source, {}).get("parameterType", "LIST") != "LIST":
                self._fault("loop-items", path, item, f"{source!r} is not a list")
        return item or "?"

    def _task_parameters(
        self,
        scope: _Scope,
        path: str,
        task: Mapping[str, Any],
        component: Mapping[str, Any],
        item: str,
        siblings: Mapping[str, Any],
    ) -> None:
        wanted, parent = _parameters(component), _parameters(scope.component)
        given = task.get("inputs", {}).get("parameters", {})
        for name in given.keys() - wanted.keys():
            self._fault("unknown-input", path, name, "the component has no such parameter")
        for name, parameter in wanted.items():
            if name not in given and name != item and not (parameter.get("isOptional") or "defaultValue" in parameter):
                self._fault("missing-input", path, name, "no value, no default, and not optional")
        for name, source in given.items():
            kind = wanted.get(name, {}).get("parameterType")
            if "componentInputParameter" in source:
                origin = source["componentInputParameter"]
                if origin not in parent and origin != item:
                    self._fault("parent-input", path, name, f"its parent has no input parameter {origin}")
                elif origin in parent and not source.get("parameterExpressionSelector"):
                    self._same_kind(path, name, parent[origin].get("parameterType"), kind)
            elif "taskOutputParameter" in source:
                output = source["taskOutputParameter"]
                produced = self._produced(path, name, task, output.get("producerTask"), siblings)
                outputs = produced.get("outputDefinitions", {}).get("parameters", {})
                if produced and output.get("outputParameterKey") not in outputs:
                    problem = f"{output.get('producerTask')} has no output {output.get('outputParameterKey')}"
                    self._fault("producer", path, name, problem)
                elif produced:
                    self._same_kind(path, name, outputs[output["outputParameterKey"]].get("parameterType"), kind)
            elif "runtimeValue" in source:
                value = source["runtimeValue"].get("constant")
                if name in wanted:
                    self._constant(path, name, value, kind)
                self._placeholders(path, name, value, task)
            elif "taskFinalStatus" in source and not _is_exit(task):
                self._fault("final-status", path, name, "only a task that follows a failure can read its status")

    def _placeholders(self, path: str, name: str, value: Any, task: Mapping[str, Any]) -> None:
        given = task["inputs"]["parameters"]
        text = json.dumps(value)
        for other in _INPUT.findall(text):
            if other not in given:
                self._fault("placeholder", path, name, f"refers to the input {other}, which the task does not have")
        if _PER_RUN.search(text) and task.get("cachingOptions", {}).get("enableCache"):
            self._fault("cache-key", path, name, "differs in every run, so the cache can never be used")

    def _same_kind(self, path: str, name: str, source: str | None, kind: str | None) -> None:
        number = ("NUMBER_INTEGER", "NUMBER_DOUBLE")
        if source and kind and kind not in ("STRING", source) and not (source in number and kind in number):
            self._fault("parameter-type", path, name, f"gets a value of type {source}, wants {kind}")

    def _produced(
        self, path: str, name: str, task: Mapping[str, Any], producer: Any, siblings: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return the component of the task that produces an input; empty, and a fault, where there is none."""
        if producer not in siblings:
            self._fault("producer", path, name, f"no task {producer} beside it")
            return {}
        if producer not in upstream(_waits(siblings), task.get("dependentTasks", [])):
            self._fault("producer", path, name, f"does not wait for {producer}, whose output it reads")
        return dict(self.spec["components"].get(siblings[producer].get("componentRef", {}).get("name"), {}))

    def _task_artifacts(
        self,
        scope: _Scope,
        path: str,
        task: Mapping[str, Any],
        component: Mapping[str, Any],
        siblings: Mapping[str, Any],
        made: Mapping[str, Mapping[str, str]],
    ) -> dict[str, str]:
        """Check what a task reads; return input name -> identity of the artifact."""
        wanted = component.get("inputDefinitions", {}).get("artifacts", {})
        parent = scope.component.get("inputDefinitions", {}).get("artifacts", {})
        given = task.get("inputs", {}).get("artifacts", {})
        for name in given.keys() - wanted.keys():
            self._fault("unknown-input", path, name, "the component has no such artifact")
        for name, artifact in wanted.items():
            if name not in given and not artifact.get("isOptional"):
                self._fault("missing-input", path, name, "no artifact, and not optional")
        identities: dict[str, str] = {}
        for name, source in given.items():
            if "componentInputArtifact" in source:
                origin = source["componentInputArtifact"]
                if origin not in parent:
                    self._fault("parent-input", path, name, f"its parent has no input artifact {origin}")
                    continue
                identities[name], produced = scope.artifacts.get(origin, f"{scope.path}?{origin}"), parent[origin]
            else:
                output = source.get("taskOutputArtifact", {})
                producer, key = output.get("producerTask"), output.get("outputArtifactKey")
                maker = self._produced(path, name, task, producer, siblings)
                outputs = maker.get("outputDefinitions", {}).get("artifacts", {})
                if maker and key not in outputs:
                    self._fault("producer", path, name, f"{producer} has no output {key}")
                if key not in outputs or producer is None:
                    continue
                identities[name] = made.get(producer, {}).get(key, f"{producer}.{key}")
                looped = "parameterIterator" in siblings[producer]
                produced = {**outputs[key], "isArtifactList": looped or outputs[key].get("isArtifactList", False)}
            self._same_artifact_type(path, name, produced, wanted.get(name, {}))
            if "parameterIterator" in task and produced.get("isArtifactList"):
                self._fault("list-into-loop", path, name, "in a loop Kubeflow passes only the last artifact of a list")
        for name, identity in identities.items():
            twins = [other for other in identities if other < name and identities[other] == identity]
            if twins:
                problem = f"gets the same artifact as the input {twins[0]} ({identity}); Kubeflow allows one input each"
                self._fault("artifact-twice", path, name, problem)
        return identities

    def _same_artifact_type(self, path: str, name: str, produced: Any, wanted: Any) -> None:
        source = produced.get("artifactType", {}).get("schemaTitle")
        title = wanted.get("artifactType", {}).get("schemaTitle")
        if source and title and title not in ("system.Artifact", source) and source != "system.Artifact":
            self._fault("artifact-type", path, name, f"gets a {source}, wants a {title}")
        if wanted and bool(produced.get("isArtifactList")) != bool(wanted.get("isArtifactList")):
            actual, needed = ("a list", "one") if produced.get("isArtifactList") else ("one", "a list")
            self._fault("artifact-type", path, name, f"gets {actual}, wants {needed}")

    def _executor(self, component: Mapping[str, Any]) -> Mapping[str, Any]:
        executors = self.spec.get("deploymentSpec", {}).get("executors", {})
        return dict(executors.get(component.get("executorLabel"), {}))

    def _executors(self) -> None:
        for name, component in self.spec["components"].items():
            executor = self._executor(component)
            if "dag" not in component and not ("container" in executor or "importer" in executor):
                self._fault("executor", name, "", f"no container or importer {component.get('executorLabel')!r}")
                continue
            container = executor.get("container")
            if container is not None:
                self._container(name, container)

    def _container(self, name: str, container: Mapping[str, Any]) -> None:
        if not container.get("image"):
            self._fault("image", name, "", "no container image")
        command = (*container.get("command", []), *container.get("args", []))
        if any(len(text.encode()) > ARGUMENT_BYTES for text in command):
            self._fault("argument-size", name, "", f"its command is longer than {ARGUMENT_BYTES} bytes")
        variables = [entry["name"] for entry in container.get("env", [])]
        for variable in dict.fromkeys(variables):
            if not _VARIABLE.fullmatch(variable):
                self._fault("environment", name, "", f"{variable!r} is not a name for an environment variable")
            if variables.count(variable) > 1:
                self._fault("environment", name, "", f"{variable} is set twice")
            if "REVISION" in variable:
                self._fault("cache-key", name, "", f"{variable} changes with each commit and is part of the cache key")
        resources = container.get("resources", {})
        for kind in ("Cpu", "Memory"):
            amounts = {}
            for bound in ("Request", "Limit"):
                text = resources.get(f"resource{kind}{bound}")
                if text is None:
                    continue
                try:
                    amounts[bound] = amount_of(text)
                except ValueError as error:
                    self._fault("resources", name, "", f"{kind.lower()} {bound.lower()}: {error}")
            if len(amounts) == 2 and amounts["Request"] > amounts["Limit"]:
                self._fault("resources", name, "", f"the {kind.lower()} request is more than its limit")

    def _kubernetes(self) -> None:
        for platform in self.platform.get("platforms", {}).keys() - {"kubernetes"}:
            self._fault("platform", "", "", f"Kubeflow ignores settings for {platform}")
        config = self.platform.get("platforms", {}).get("kubernetes", {})
        executors = config.get("deploymentSpec", {}).get("executors", {})
        known = self.spec.get("deploymentSpec", {}).get("executors", {})
        for label in executors.keys() - known.keys():
            self._fault("ignored-settings", label, "", "no task has these Kubernetes settings, so they are ignored")
        for label, settings in executors.items():
            self._pod(label, settings)
        workspace = config.get("pipelineConfig", {}).get("workspace")
        if workspace is not None:
            self._workspace(workspace)
        elif WORKSPACE in json.dumps(self.spec) or "{{$.workspace_path}}" in json.dumps(self.spec):
            self._fault("workspace", "", "", "a parameter names the run's workspace, but the pipeline asks for none")

    def _pod(self, label: str, settings: Mapping[str, Any]) -> None:
        paths = []
        for volume in settings.get("pvcMount", []):
            if not volume.get("mountPath") or not (volume.get("constant") or _parameter_of(volume, "pvcNameParameter")):
                self._fault("volume", label, "", "a volume without a claim or a path")
            paths.append(volume.get("mountPath", ""))
        for kind in ("secretAsVolume", "configMapAsVolume", "emptyDirMounts"):
            paths += [mount.get("mountPath", "") for mount in settings.get(kind, [])]
        for path in dict.fromkeys(paths):
            if paths.count(path) > 1:
                self._fault("volume", label, "", f"two volumes are mounted at {path}")
            if is_below(path, WORKSPACE):
                self._fault("volume", label, "", f"{path} is where Kubeflow mounts the run's workspace")
        for kind in ("secretAsEnv", "secretAsVolume", "imagePullSecret"):
            for secret in settings.get(kind, []):
                if not (secret.get("secretName") or _parameter_of(secret, "secretNameParameter")):
                    self._fault("secret", label, "", f"{kind} names no secret")
                if kind == "secretAsEnv" and not secret.get("keyToEnv"):
                    self._fault("secret", label, "", f"no key of the secret {secret.get('secretName')} is used")

    def _workspace(self, workspace: Mapping[str, Any]) -> None:
        try:
            amount_of(str(workspace.get("size", "")))
        except ValueError as error:
            self._fault("workspace", "", "", f"size: {error}")
        patch = workspace.get("kubernetes", {}).get("pvcSpecPatch", {})
        for key in patch.keys() - {"accessModes", "storageClassName"}:
            self._fault("workspace", "", "", f"the server refuses {key} in a workspace's claim")
        if patch.get("storageClassName") == "":
            self._fault("workspace", "", "", "the server refuses an empty storage class")


def _parameters(component: Mapping[str, Any]) -> dict[str, Any]:
    return dict(component.get("inputDefinitions", {}).get("parameters", {}))


def _parameter_of(setting: Mapping[str, Any], key: str) -> Any:
    constant = (setting.get(key) or {}).get("runtimeValue", {}).get("constant")
    return constant or (setting.get(key) or {}).get("componentInputParameter")


def upstream(waits: Mapping[str, Sequence[str]], direct: Iterable[str]) -> set[str]:
    """Return every task that one waits for, by way of others too.

    Args:
        waits: Task -> the tasks that it waits for directly; a circle or an unknown name is no error here.
        direct: The tasks that the one waits for directly.
    """
    names: set[str] = set()
    waiting = list(direct)
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting.extend(waits.get(name, ()))
    return names


def _waits(tasks: Mapping[str, Any]) -> dict[str, list[str]]:
    return {name: task.get("dependentTasks", []) for name, task in tasks.items()}


def _is_exit(task: Mapping[str, Any]) -> bool:
    return bool(task.get("triggerPolicy", {}).get("strategy") == _EXIT)
