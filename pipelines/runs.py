"""Submit runs of the pipeline to Kubeflow, follow them step by step, and retry those that lost pods with their node."""

from __future__ import annotations

import copy
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from emoverse.artifacts.digests import digest_of_value
from emoverse.config import Params
from emoverse.errors import UserError
from emoverse.http import NoAnswerError
from pipelines.kubeflow_api import KubeflowApi

if TYPE_CHECKING:
    from pipelines.options import PipelineOptions, RunArguments

_SHORT: Final = 12  # characters of a revision or digest in a name
ENDED: Final = ("SUCCEEDED", "FAILED", "SKIPPED", "ERROR", "CANCELED")
# What Argo and the kubelet report of a pod that went away with its node, or was removed from it.
NODE_LOSS: Final = re.compile(
    r"pod deleted|deletionTimestamp|evict|node was low on resource|node ?lost|node shutdown|preempt|NodeAffinity"
    r"|not ready|unreachable|shut ?down in progress|spot|exit code 143",  # 143: ended by SIGTERM, as in a drain
    re.IGNORECASE,
)
# Kubeflow terminates a run by giving its workflow a deadline of 0 s, and calls it failed; Argo's messages vary.
TERMINATED: Final = "the run was terminated"
# Kubernetes' reasons for a pod that stays pending, without those of every start (ContainerCreating, PodInitializing).
HINDRANCE: Final = re.compile(r"Unschedulable|ErrImage|ImagePull|InvalidImage|CreateContainer(Config)?Error|CrashLoop")
_PHASES: Final = {
    "Pending": "pending", "Running": "running", "Succeeded": "succeeded", "Skipped": "cached", "Failed": "failed",
    "Error": "failed",
}  # fmt: skip
_LAUNCHER: Final = re.compile(r"^[IWEF]\d{4} |^time=\"|^\s*$")  # lines of Kubeflow's own in a pod's log
# The last words of a launcher to which the API server or the metadata store gave no answer: gRPC's codes, Go's errors.
_UNANSWERED: Final = re.compile(
    r"^F\d{4} .*(code = (Unavailable|DeadlineExceeded)|connection refused|connection reset|i/o timeout)", re.MULTILINE
)


@dataclass(frozen=True)
class Run:
    """A submitted run: its id in the API, and the address where a person looks at it."""

    id: str
    url: str


def submit(
    params: Params,
    arguments: RunArguments,
    options: PipelineOptions,
    *,
    base: Path,
    host: str,
    experiment: str,
    name: str = "",
    volume: str = "",
    namespace: str = "",
    cron: str = "",
) -> Run:
    """Compile the pipeline, upload it as a version of ``emoverse`` unless the server has it, and start a run of it.

    Args:
        params: Parameters of the run.
        arguments: Arguments of the pipeline.
        options: How to compile the pipeline.
        base: The repository.
        host: Address of Kubeflow Pipelines.
        experiment: Experiment of the run, which is created if missing.
        name: Display name of the run. Empty: the experiment and the time.
        volume: Mounted folder with the raw corpora. Empty: they travel as artifacts.
        namespace: Namespace on a cluster with several users.
        cron: Start a run at each of these times instead of one now.

    Raises:
        UserError: Kubeflow refuses.
    """
    from pipelines.pipeline import NAME, compile_to  # kfp, which following and retrying do without

    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "emoverse.yaml")
        compile_to(package, params, base=base, options=options)
        text = package.read_text("utf-8")
    api = KubeflowApi(host)
    if api.health().get("multi_user") is True and not namespace:
        remedy = "give your namespace there"
        raise UserError("this cluster separates its users", place="--namespace", remedy=remedy)
    version = version_name(list(yaml.load_all(text, yaml.CSafeLoader)), options.revision)
    description = f"revision {options.revision}" if options.revision else "not in a git repository"
    reference = api.upload(NAME, version, text, description=description, namespace=namespace)
    made = api.experiment(experiment, namespace)
    name = name or f"{experiment} {time.strftime('%Y-%m-%d %H:%M')}"
    values: Mapping[str, Any] = {**arguments.as_keywords(), "raw_volume": volume}
    try:
        if cron:
            recurring = api.start_recurring_run(made, name, reference, values, cron)
            return Run(recurring, f"{api.address}/#/recurringrun/details/{recurring}")
        run = api.start_run(made, name, reference, values, description)
    except NoAnswerError as error:
        remedy = "look there whether the run has started before you submit again"
        raise UserError(error.problem, place=f"{api.address}/#/runs", remedy=remedy) from None
    return Run(run, api.run_url(run))


def version_name(documents: list[Any], revision: str) -> str:
    """Return a version's name: the git revision and a digest of the pipeline without its default parameters.

    A run gives every parameter, so runs that differ only in their parameters are runs of one version.
    """
    content = copy.deepcopy(documents)
    content[0]["pipelineInfo"].pop("description", None)
    for parameter in content[0]["root"]["inputDefinitions"]["parameters"].values():
        parameter.pop("defaultValue", None)
    dirty = "-dirty" if revision.endswith("-dirty") else ""
    return f"{(revision or 'unversioned')[:_SHORT]}{dirty} {digest_of_value(content)[:_SHORT]}"


def name_of_changes(overrides: list[str], seeds: tuple[int, ...]) -> str:
    """Return a run's name from what its user changed: ``stage1.epochs=1, seeds 1 2``."""
    parts = [*overrides, *([f"seeds {' '.join(map(str, seeds))}"] if seeds else [])]
    return ", ".join(parts)


@dataclass(frozen=True)
class StepState:
    """The state of one step: ``pending``, ``running``, ``succeeded``, ``cached`` or ``failed``.

    ``pod`` is the last pod that ran it, ``node`` its node in the workflow, ``day`` when it started. ``message`` is
    Kubernetes' reason for a failure.
    """

    name: str
    state: str
    seconds: float = 0.0
    pod: str = ""
    message: str = ""
    node: str = ""
    namespace: str = ""
    day: str = ""

    @property
    def lost(self) -> bool:
        """Return whether the step failed because its pod or node went away."""
        return self.state == "failed" and bool(NODE_LOSS.search(self.message))

    @property
    def terminated(self) -> bool:
        """Return whether the step ended because a person terminated the run."""
        return self.state == "failed" and self.message == TERMINATED

    def line(self) -> str:
        """Return the state, the duration and the name; for a pod that cannot start, why."""
        duration = f"{self.seconds:6.0f} s" if self.state in ("succeeded", "failed") else " " * 8
        waits = f" ({self.message})" if self.hindered else ""
        return f"{self.state:10}{duration}  {self.name}{waits}"

    @property
    def hindered(self) -> bool:
        """Return whether the pod cannot start: no node has room for it, or its image cannot be pulled."""
        return self.state == "pending" and bool(HINDRANCE.search(self.message))


def steps_of(workflow: Mapping[str, Any], spec: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[StepState]:
    """Return the steps of a run, in the order in which they started.

    Args:
        workflow: The run's Argo workflow, whose nodes are drivers, loops, iterations and executors.
        spec: The compiled pipeline, which knows the steps' names.
        parameters: The run's parameters, which hold the items of its loops.
    """
    nodes = list(((workflow.get("status") or {}).get("nodes") or {}).values())
    nodes = [node for node in nodes if node.get("phase") != "Omitted"]  # steps after one that failed
    terminated = (workflow.get("spec") or {}).get("activeDeadlineSeconds") == 0
    by_step: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for node in nodes:
        path = tuple(node["name"].split("."))[1:]
        role = re.match(r"executor(\(\d+\))?$|.+-driver$", path[-1]) if path else None
        if role and path[-1] not in ("root-driver", "iteration-driver", "iteration-item-driver"):
            step = path[:-1] if path[-1].startswith("executor") else (*path[:-1], path[-1].removesuffix("-driver"))
            by_step.setdefault(step, []).append(node)
    started = []
    for path, own in by_step.items():
        name = _label(path, spec, parameters)
        if name:
            state = _state(name, own, workflow)
            state = replace(state, message=TERMINATED) if terminated and state.state == "failed" else state
            started.append((min(str(node.get("startedAt") or "9") for node in own), state))
    return [state for _, state in sorted(started, key=lambda pair: pair[0])]


def _label(path: Sequence[str], spec: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Return a step's name with the items of the loops it is in; empty for a group of steps."""
    groups, loop, items = [spec["root"]["dag"]], None, []
    task: Mapping[str, Any] | None = None
    for part in path[1:]:
        index = re.search(r"\((\d+):", part)
        if index and loop is not None:
            items.append(_item(loop, int(index[1]), parameters))
        task = next((group["tasks"][part] for group in reversed(groups) if part in group["tasks"]), task)
        if task is None:
            continue
        component = spec["components"][task["componentRef"]["name"]]
        if "parameterIterator" in task:
            loop = task
        if "dag" in component and component["dag"] is not groups[-1]:
            groups.append(component["dag"])
    if task is None or "dag" in spec["components"][task["componentRef"]["name"]]:
        return ""
    return " ".join([task["taskInfo"]["name"], *items])


def _item(loop: Mapping[str, Any], index: int, parameters: Mapping[str, Any]) -> str:
    items = loop["parameterIterator"]["items"]
    name = str(items.get("inputParameter", "")).removeprefix("pipelinechannel--")
    values = json.loads(items["raw"]) if "raw" in items else parameters.get(name) or []
    value = values[index] if index < len(values) else index
    return str(value.get("corpus", index)) if isinstance(value, Mapping) else str(value)


def _state(name: str, nodes: Sequence[Mapping[str, Any]], workflow: Mapping[str, Any]) -> StepState:
    executors = sorted((n for n in nodes if "executor" in n["name"].rpartition(".")[2]), key=lambda n: len(n["name"]))
    decisive = executors[0] if executors else nodes[0]
    state = _PHASES.get(decisive.get("phase", ""), "pending")
    if not executors and state in ("running", "succeeded"):
        state = "pending"  # the driver looks into the cache, or is done and its executor has no node yet
    pods = [node for node in nodes if node.get("type") == "Pod"]
    pods.sort(key=lambda node: (not node["name"].endswith("-driver"), str(node.get("startedAt") or "")))
    last = pods[-1] if pods else None
    messages = [str(node["message"]) for node in (*reversed(pods), decisive) if node.get("message")]
    return StepState(
        name,
        state,
        _seconds(decisive),
        pod=_pod_name(last, workflow) if last else "",
        message=messages[0] if messages else "",
        node=str(last["id"]) if last else "",
        namespace=str(workflow["metadata"].get("namespace", "")),
        day=str(last.get("startedAt") or "")[:10] if last else "",
    )


def _seconds(node: Mapping[str, Any]) -> float:
    try:
        start, end = (datetime.fromisoformat(node[key]) for key in ("startedAt", "finishedAt"))
    except (KeyError, TypeError, ValueError):
        return 0.0
    return (end - start).total_seconds()


def _pod_name(node: Mapping[str, Any], workflow: Mapping[str, Any]) -> str:
    """Return a pod's name as Argo forms it: workflow, template, and the node id's hash."""
    name = workflow["metadata"]["name"]
    return str(node["id"] if node["id"] == name else f"{name}-{node['templateName']}-{node['id'].rpartition('-')[2]}")


def last_error_line(log: str) -> str:
    """Return the line that says what was wrong: the last of ours, else the last that is not Kubeflow's own."""
    lines = [line.strip() for line in log.splitlines() if not _LAUNCHER.search(line)]
    own = [line for line in lines if line.startswith("emoverse: ")]
    return (own or lines or [""])[-1]


class Follower:
    """Follow one run: its steps, its state, its failures."""

    def __init__(self, api: KubeflowApi, run: Run) -> None:
        self._api, self.run = api, run
        self._spec: Mapping[str, Any] = {}

    def look(self) -> tuple[str, list[StepState]]:
        """Return the run's state and its steps as they are now."""
        run = self._api.run(self.run.id)
        self._spec = self._spec or next(iter(self._api.documents_of(run)), {})
        defaults = {
            name: parameter.get("defaultValue")
            for name, parameter in self._spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {}).items()
        }
        parameters = {**defaults, **((run.get("runtime_config") or {}).get("parameters") or {})}
        workflow = self._api.workflow(self.run.id)
        return str(run.get("state")), steps_of(workflow, self._spec, parameters) if self._spec and workflow else []

    def error_of(self, step: StepState) -> str:
        """Return a failed step's own last error line, else Kubernetes' reason."""
        if step.lost or step.terminated or not step.pod:
            return step.message
        try:
            return last_error_line(self.log_of(step)) or step.message
        except NoAnswerError:  # a busy server may fail to look for a log, and the run's end is known without it
            return step.message

    def unanswered(self, step: StepState) -> bool:
        """Return whether a step failed because Kubeflow's server did not answer the launcher, as its log says."""
        if step.state != "failed" or step.lost or step.terminated or not step.pod:
            return False
        try:
            log = self.log_of(step)
        except NoAnswerError:
            return False
        return bool(_UNANSWERED.search(log)) and not any(line.startswith("emoverse: ") for line in log.splitlines())

    def log_of(self, step: StepState) -> str:
        """Return the log of a step's last pod; empty where it is gone."""
        return self._api.log(self.run.id, step.pod, step.node, namespace=step.namespace, day=step.day)


def watch(
    run: Run,
    *,
    host: str,
    pause: float = 10.0,
    patience: int = 30,
    retries: int = 0,
    say: Callable[[str], None] = print,
) -> None:
    """Print each step's states as they change until the run ends; raise UserError unless it succeeded.

    Args:
        run: The submitted run.
        host: Address of Kubeflow Pipelines.
        pause: Seconds between two requests.
        patience: Requests in a row that may stay without an answer. A run takes days, and a tunnel breaks now and then.
        retries: How often to retry the run when it failed only because pods were lost with their nodes, or because
            Kubeflow's server did not answer their launchers.
        say: Takes each line.
    """
    follower = Follower(KubeflowApi(host, retries=0), run)
    for attempt in range(retries + 1):
        state, steps = _until_it_ends(follower, pause, patience, say)
        failed = [step for step in steps if step.state == "failed"]
        if state == "SUCCEEDED":
            return
        again = attempt < retries and state != "CANCELED" and bool(failed)
        if again and all(step.lost or follower.unanswered(step) for step in failed):
            say(f"retry {attempt + 1} of {retries}: {', '.join(f'{s.name}: {s.message}' for s in failed)}")
            retry(run, host=host)
            time.sleep(pause)  # until the workflow controller has restarted the nodes
            continue
        raise _failure(follower, state, failed)


def _until_it_ends(
    follower: Follower, pause: float, patience: int, say: Callable[[str], None]
) -> tuple[str, list[StepState]]:
    seen: dict[str, str] = {}
    unanswered = 0
    while True:
        try:
            state, steps = follower.look()
            unanswered = 0
        except UserError as error:
            unanswered += 1
            if isinstance(error, NoAnswerError) and unanswered <= patience:
                time.sleep(pause)
                continue
            remedy = f"{error.remedy}; the run continues, look at it there"
            raise type(error)(f"no longer watched: {error.problem}", place=follower.run.url, remedy=remedy) from None
        for step in steps:
            state_seen = f"{step.state} {step.message}" if step.hindered else step.state
            if seen.get(step.name) != state_seen:
                seen[step.name] = state_seen
                say(step.line())
        if state in ENDED:
            return state, steps
        time.sleep(pause)


def _failure(follower: Follower, state: str, failed: Sequence[StepState]) -> UserError:
    problem = f"the run ended as {state.lower()}"
    if failed:
        problem += ": " + "; ".join(f"{step.name}: {follower.error_of(step)}" for step in failed)
    remedy = "correct that and submit again: finished steps come from the cache"
    if failed and all(step.lost or step.terminated or follower.unanswered(step) for step in failed):
        remedy = f"run `emoverse retry {follower.run.id}`: only the failed steps run again"
    return UserError(problem, place=follower.run.url, remedy=remedy)


def retry(run: Run, *, host: str, force: bool = False) -> list[StepState]:
    """Restart a run from its failed steps; return these.

    Raises:
        UserError: The run has not failed, or (unless ``force``) a step failed by itself and would fail again. Steps
            that were lost with their node, that a person terminated, or whose launcher got no answer from Kubeflow's
            server did not.
    """
    api = KubeflowApi(host)
    follower = Follower(api, run)
    state, steps = follower.look()
    failed = [step for step in steps if step.state == "failed"]
    if state not in ("FAILED", "ERROR", "CANCELED"):
        raise UserError(f"the run is {state.lower()}", place=run.url, remedy="only a run that failed can be retried")
    own = [step for step in failed if not (step.lost or step.terminated or follower.unanswered(step))]
    if own and state != "CANCELED" and not force:
        problem = "; ".join(f"{step.name} failed by itself: {follower.error_of(step)}" for step in own)
        remedy = "correct that and submit again; --force retries it nevertheless"
        raise UserError(problem, place=run.url, remedy=remedy)
    api.retry(run.id)
    return failed
