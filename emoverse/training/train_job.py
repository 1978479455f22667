"""Train on several nodes of a cluster: as a TrainJob of Kubeflow Trainer v2, from the pod of the step ``train``.

The step's pod copies the inputs to a folder that all nodes share, creates the TrainJob, waits for it, passes on the log
of its first node, and copies the result to its own output. Every node runs ``python -m emoverse.training.train_job``
with the file that describes the task, and so the same `train.train` as everywhere else.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.digests import MANIFEST, code_digest, digest_of_value, sha256_file
from emoverse.artifacts.manifest import open_source, read_manifest, write_json
from emoverse.config import TrainParams, parse, plain
from emoverse.errors import UserError, as_user_error, from_os_error, report_step_error
from emoverse.http import NoAnswerError
from emoverse.kubernetes_api import NODE_LABEL, KubernetesApi, connect
from emoverse.training.distributed import NODE_RANK, PreemptedError, on_sigterm

TEMPLATE: Final = "EMOVERSE_TRAIN_JOB"
"""Variable with JSON: ``folder``, which the nodes share, and ``job``, a TrainJob without name, command and nodes."""
PAUSE: Final = 5.0  # seconds between two requests for the state of a TrainJob
_PATIENCE: Final = 120  # requests without an answer of the Kubernetes API, or while a job is being deleted
_OVERLAP: Final = 60  # seconds of the log that are read again; lines that were passed on are left out
_SHORT: Final = 16  # characters of a digest in a name
_TASK: Final = "task.json"
_RESULT: Final = "result"
_ERROR: Final = "error-{}.json"


def train_in_pod(
    stage: str,
    model: Path,
    amt: Path,
    validated: Sequence[Path],
    out: Path,
    params: TrainParams,
    base: Path | None = None,
) -> None:
    """Do what `train.train` does, from the pod of the step: in it, or with several nodes as a TrainJob.

    Args and errors are those of `train_as_job`.
    """
    if params.nodes > 1:
        train_as_job(stage, model, amt, validated, out, params, base)
        return
    from emoverse.training.train import train  # it imports torch, which a pod that waits does without

    train(stage, model, amt, validated, out, params, base=base)


def train_as_job(
    stage: str,
    model: Path,
    amt: Path,
    validated: Sequence[Path],
    out: Path,
    params: TrainParams,
    base: Path | None = None,
    pause: float = PAUSE,
) -> None:
    """Do what `train.train` does on ``params.nodes`` nodes of this pod's cluster.

    An unfinished job of the same inputs, parameters and code, which an earlier try of the step left, is waited for; one
    that failed is replaced, and continues from its last checkpoint.

    Args:
        stage: ``stage1`` or ``stage2``.
        model: Output of base-model or of a stage.
        amt: Output of build-amt.
        validated: Outputs of validate with the frames.
        out: Folder to publish.
        params: The stage's parameters.
        base: The base model.
        pause: Seconds between two requests for its state.

    Raises:
        UserError: The profile or the cluster lacks Kubeflow Trainer, training was refused, or the job failed.
        PreemptedError: SIGTERM; the job is deleted, and its checkpoints stay.
    """
    settings = _settings(params)
    folder = Path(settings["folder"])
    stopped = threading.Event()
    with on_sigterm(lambda *_: stopped.set()):
        cluster = connect()
        runtime = settings["job"]["spec"]["runtimeRef"]
        cluster.check_trainer(runtime["kind"], runtime["name"])
        folders = {"model": model, "amt": amt, **({"base": base} if base else {})}
        folders |= {f"validated/{read_manifest(path)['name']}": path for path in validated}
        digests = {name: sha256_file(_manifest_of(path)) for name, path in folders.items()}
        decisive = {"stage": stage, "params": plain(params), "inputs": digests, "code": code_digest("train")}
        name = f"emoverse-{stage}-{digest_of_value(decisive)[:_SHORT]}"
        place = folder / "jobs" / name
        result = place / _RESULT
        job = _Job(cluster, name, place, stopped, pause)
        if not (result / MANIFEST).is_file() or job.state() == "running":
            shared = {key: _share(path, digests[key], folder / "inputs") for key, path in folders.items()}
            task: dict[str, Any] = {key: str(shared[key]) for key in ("model", "amt", "base") if key in shared}
            task |= {"stage": stage, "params": plain(params), "out": str(result)}
            place.mkdir(parents=True, exist_ok=True)
            frames = [str(shared[key]) for key in folders if key.startswith("validated/")]
            write_json(place / _TASK, {**task, "validated": frames})
            job.run(manifest(settings["job"], name, place / _TASK, params))
        _fetch(result, out)
        cluster.delete_train_job(name)
    shutil.rmtree(place, ignore_errors=True)


def manifest(template: Mapping[str, Any], name: str, task: Path, params: TrainParams) -> dict[str, Any]:
    """Return the TrainJob of a task: the template of the cluster profile with its command, name and number of nodes.

    Args:
        template: A TrainJob without name, command and numbers of nodes and processes.
        name: Name of the job.
        task: The task file, which all nodes see.
        params: The stage's parameters.
    """
    trainer = {
        **template["spec"]["trainer"],
        "command": ["python", "-m", "emoverse.training.train_job", str(task)],
        "numNodes": params.nodes,
        "numProcPerNode": params.gpus,
    }
    metadata = {**template.get("metadata", {}), "name": name}
    return {**template, "metadata": metadata, "spec": {**template["spec"], "trainer": trainer}}


def _settings(params: TrainParams) -> dict[str, Any]:
    text = os.environ.get(TEMPLATE)
    if not text:
        problem = f"is {params.nodes}, but the pipeline was compiled for training on one node"
        remedy = "compile it with these parameters and a cluster profile that has `trainer`, or set train.nodes to 1"
        raise UserError(problem, place="train.nodes", remedy=remedy)
    return dict(json.loads(text))


def _manifest_of(folder: Path) -> Path:
    read_manifest(folder)  # refuses a folder that is not finished
    return folder / MANIFEST


def _share(source: Path, digest: str, inputs: Path) -> Path:
    """Copy a step's output to the shared folder, unless it is there; return where. The nodes check its bytes."""
    place = inputs / digest[:32]
    if (place / MANIFEST).is_file():
        return place
    draft = inputs / f".{digest[:32]}.{uuid.uuid4().hex}"
    try:
        shutil.copytree(source, draft)
        draft.rename(place)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if not (place / MANIFEST).is_file():  # not even another run has copied it meanwhile
            raise from_os_error(error) or error from None
    return place


def _fetch(result: Path, out: Path) -> None:
    """Copy a finished model and the notes beside it, and check every byte of the copy."""
    shutil.copytree(result, out, dirs_exist_ok=True)
    shutil.copyfile(result.with_name(f"{result.name}.run.json"), out.with_name(f"{out.name}.run.json"))
    open_source(out, made_by="train")


class _Job:
    """Run one TrainJob and wait for it; ``folder`` has its task, result and errors."""

    def __init__(self, cluster: KubernetesApi, name: str, folder: Path, stopped: threading.Event, pause: float) -> None:
        self.cluster, self.name, self.folder = cluster, name, folder
        self._stopped, self._pause = stopped, pause
        self._printed = self._last_time = self._last_line = ""
        self._read = 0.0

    def state(self) -> str:
        """Return ``none``, ``deleting``, ``running`` (or waiting for nodes), ``complete`` or ``failed``."""
        return _state(self.cluster.train_job(self.name))

    def run(self, manifest: Mapping[str, Any]) -> None:
        """Create the job unless it is running; return when it is complete.

        Raises:
            UserError: The job failed or is gone, or a node refused to train.
            PreemptedError: Stopped; the job is deleted.
        """
        if self.state() == "running":
            self._say("continues the TrainJob of an earlier try")
        else:
            self._remove()
            for path in self.folder.glob(_ERROR.format("*")):
                path.unlink()
            self._check_stopped()
            self.cluster.create_train_job(manifest)
            self._say(f"created on {manifest['spec']['trainer']['numNodes']} nodes")
        silent = 0
        while True:
            self._check_stopped()
            try:
                found = self.cluster.train_job(self.name)
                self._pass_on()
                silent = 0
            except NoAnswerError as error:
                silent += 1
                if silent > _PATIENCE:
                    raise  # the job goes on, and the next try of the step finds it
                self._say(error.problem)
                self._stopped.wait(self._pause)
                continue
            self._check_refused()
            state = _state(found)
            if state == "complete":
                return
            if state == "failed":
                raise self._failure(found or {})
            if state in ("none", "deleting"):
                problem, remedy = "it was deleted before it had ended", "run again to resume from its checkpoints"
                raise UserError(problem, place=f"TrainJob {self.name}", remedy=remedy)
            self._stopped.wait(self._pause)

    def _remove(self) -> None:
        """Delete an earlier job, and wait until it is gone."""
        for _ in range(_PATIENCE):
            if self.state() == "none":
                return
            self.cluster.delete_train_job(self.name)
            self._check_stopped()
            self._stopped.wait(self._pause)
        raise UserError("an earlier one is not gone", place=f"TrainJob {self.name}", remedy="delete it with kubectl")

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            self.cluster.delete_train_job(self.name)
            raise PreemptedError(f"stopped: TrainJob {self.name} is deleted; run again to resume from its checkpoints")

    def _check_refused(self) -> None:
        """Raise what a node's training refused for good; the job would start it again in vain."""
        for error in self._errors():
            if refused := error.get("refused"):
                self.cluster.delete_train_job(self.name)
                raise UserError(**refused)

    def _errors(self) -> list[dict[str, Any]]:
        """Return what the nodes reported, the first one first: others only lost their connection to it."""
        errors = [json.loads(path.read_text("utf-8")) for path in self.folder.glob(_ERROR.format("*"))]
        return sorted(errors, key=lambda error: float(error["at"]))

    def _failure(self, job: Mapping[str, Any]) -> UserError:
        condition = next(entry for entry in job["status"]["conditions"] if entry["type"] == "Failed")
        cause = f"{condition.get('reason', '')}: {condition.get('message', '')}"
        if errors := self._errors():
            cause = f"node {errors[0]['node']}: {errors[0]['failed']}"
        elif ended := [text for pod in self.cluster.pods_of(self.name) if (text := _end_of(pod))]:
            cause = ended[0]
        last = f"; last line of its log: {self._last_line!r}" if self._last_line and not errors else ""
        remedy = "correct that, and run again to resume from the last checkpoint"
        return UserError(f"failed ({cause}){last}", place=f"TrainJob {self.name}", remedy=remedy)

    def _pass_on(self) -> None:
        """Print new lines of the first node's log, and what keeps a pod from starting."""
        pods = self.cluster.pods_of(self.name)
        if waits := [text for pod in pods if (text := _waits(pod))]:
            self._say("; ".join(waits))
        first = [pod for pod in pods if (pod.metadata.labels or {}).get(NODE_LABEL) == "0"]
        if not first:
            return
        now = time.monotonic()
        seconds = int(now - self._read) + _OVERLAP if self._last_time else None
        for line in self.cluster.log(first[-1].metadata.name, seconds):
            at, _, text = line.partition(" ")
            if at > self._last_time:
                self._last_time, self._last_line = at, text.strip() or self._last_line
                print(text, file=sys.stderr, flush=True)
        self._read = now

    def _say(self, text: str) -> None:
        if text != self._printed:
            self._printed = text
            print(f"train: TrainJob {self.name}: {text}", file=sys.stderr, flush=True)


def _state(job: Mapping[str, Any] | None) -> str:
    if job is None:
        return "none"
    if job["metadata"].get("deletionTimestamp"):
        return "deleting"
    entries = job.get("status", {}).get("conditions", [])
    conditions = {entry["type"] for entry in entries if entry["status"] == "True"}
    return "complete" if "Complete" in conditions else "failed" if "Failed" in conditions else "running"


def _waits(pod: Any) -> str:
    """Return what keeps a pod from starting; empty where nothing does."""
    where = f"node {(pod.metadata.labels or {}).get(NODE_LABEL, '?')} waits"
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{where}: {condition.reason}: {condition.message}"
    for container in pod.status.container_statuses or []:
        waiting = container.state.waiting
        if waiting and waiting.reason not in (None, "ContainerCreating", "PodInitializing"):
            return f"{where}: {waiting.reason}: {waiting.message or ''}".removesuffix(": ")
    return ""


def _end_of(pod: Any) -> str:
    """Return how a pod's container ended, or last ended before it was started again; empty where it did well."""
    for container in pod.status.container_statuses or []:
        for state in (container.state, container.last_state):
            if state and state.terminated and state.terminated.exit_code:
                ended = state.terminated
                node = (pod.metadata.labels or {}).get(NODE_LABEL, "?")
                return f"node {node}: {ended.reason or 'Error'}, exit code {ended.exit_code}"
    return ""


def main(task_file: Path) -> int:
    """Train as a task file says, on this node; leave an error where the step's pod looks for it; return an exit code.

    A training that was stopped (a node is drained) has an exit code too, so that the job starts it again.
    """
    from emoverse.cpus import limit_threads

    limit_threads()  # before torch is imported
    from emoverse.training.train import train

    task = json.loads(task_file.read_text("utf-8"))
    frames = [Path(folder) for folder in task["validated"]]
    paths = {name: Path(task[name]) for name in ("model", "amt", "out")}
    params = parse(TrainParams, task["params"], place=task["stage"])
    try:
        train(
            task["stage"], paths["model"], paths["amt"], frames, paths["out"], params,
            base=Path(task["base"]) if "base" in task else None,
        )  # fmt: skip
    except PreemptedError as stop:
        print(f"emoverse: {stop}", file=sys.stderr)
        return 1
    except Exception as error:
        node = os.environ.get(NODE_RANK, "0")
        report: dict[str, Any] = {"node": node, "at": time.time()}
        if refusal := as_user_error(error):
            report["refused"] = refusal.as_arguments()
        else:
            report["failed"] = f"{type(error).__name__}: {error}"
        write_json(task_file.with_name(_ERROR.format(node)), report)
        if not report_step_error(error):
            traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
