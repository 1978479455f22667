"""The cluster profile: nodes, resources, volumes and secrets of a run's pods, as YAML that is checked first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from components import Images
from emoverse.artifacts.lineage import IMAGE_NAME
from emoverse.config import parse, read_yaml
from emoverse.errors import UserError
from emoverse.kubernetes_api import CONTAINER, GROUP, RUNTIME, VERSION

Image = Literal["data", "train"]
Computing = Literal["base-model", "convert", "train", "evaluate", "export"]  # steps of the train image
_frozen = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
_AMOUNT: Final = r"^[0-9]+([EPTGMK]i?|m)?$"
_SECRET: Final = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSPHRASE|API_?KEY|SECRET_ACCESS_KEY)$", re.IGNORECASE)
_MANAGER = "emoverse/train"  # whose patches of the runtime they are
_GRACE = 120  # seconds that a node which is drained has to save a checkpoint


@_frozen
class ImageNames:
    """The two images, by digest; empty: the default names."""

    data: str = ""
    train: str = ""


@_frozen
class Gpu:
    """How many accelerators of which resource type the pods of ``steps`` get."""

    type: str = "nvidia.com/gpu"
    count: int = Field(default=1, ge=1)
    steps: tuple[Computing, ...] = ("train", "evaluate")


@_frozen
class Toleration:
    """A toleration, with Kubernetes' own keys."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["NoExecute", "NoSchedule", "PreferNoSchedule"] | None = None


@_frozen
class Volume:
    """A persistent volume claim and where the pods see it."""

    claim: str
    path: str = Field(pattern="^/")
    folder: str = ""


@_frozen
class Workspace:
    """A volume that Kubeflow creates for each run to keep raw corpora in.

    Kubeflow removes it when the run has succeeded. ``storage_class`` and ``access_modes`` default to the cluster's own.
    """

    size: str = Field(pattern=_AMOUNT)
    storage_class: str = ""
    access_modes: tuple[Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"], ...] = ()


@_frozen
class Secret:
    """A Kubernetes secret, as variables (key of the secret -> name of the variable) or as files below ``path``."""

    name: str
    env: dict[str, str] = Field(default_factory=dict)
    path: str = Field(default="", pattern="^(/.*)?$")


@_frozen
class Trainer:
    """Kubeflow Trainer v2, which trains on several nodes (``train.nodes``).

    ``folder`` is on one of the volumes, which all nodes and the step's pod write (``ReadWriteMany``): copies of the
    inputs, checkpoints and the result are there. ``runtime`` is a training runtime for torch on the cluster.
    """

    folder: str = Field(pattern="^/.")
    runtime: str = Field(default=RUNTIME, min_length=1)
    kind: Literal["ClusterTrainingRuntime", "TrainingRuntime"] = "ClusterTrainingRuntime"


@_frozen
class SecurityContext:
    """The user and group that all pods run as, for volumes that only they may write."""

    user: int = Field(ge=0)
    group: int = Field(default=0, ge=0)


@_frozen
class Retries:
    """How often failed work is tried again.

    ``count``: by Kubeflow, for a container that failed, after ``wait`` seconds, then ``factor`` times that, up to
    ``longest``. ``run``: by ``submit --wait`` and ``emoverse retry``, for a pod that was deleted or lost its node.
    """

    count: int = Field(default=3, ge=0)
    run: int = Field(default=3, ge=0)
    wait: int = Field(default=60, ge=0)
    factor: float = Field(default=2.0, ge=1.0)
    longest: int = Field(default=900, ge=0)


@_frozen
class Pods:
    """Settings of the pods of one image; amounts as Kubernetes writes them (``500m``, ``16Gi``).

    ``cpu`` and ``memory`` are requests. A CPU limit throttles and is not set by default; the memory limit defaults to
    the request. ``threads`` is the number of compute threads; 0: as many as the CPU limit allows.
    """

    cpu: str = Field(default="", pattern=f"^$|{_AMOUNT}")
    cpu_limit: str = Field(default="", pattern=f"^$|{_AMOUNT}")
    memory: str = Field(default="", pattern=f"^$|{_AMOUNT}")
    memory_limit: str = Field(default="", pattern=f"^$|{_AMOUNT}")
    threads: int = Field(default=0, ge=0)
    shared_memory: str = Field(default="", pattern=f"^$|{_AMOUNT}")
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)


@_frozen
class Cluster:
    """The whole profile. ``publish`` is a folder on a volume where each run writes its report and its final state."""

    images: ImageNames = field(default_factory=ImageNames)
    pull_secrets: tuple[str, ...] = ()
    gpu: Gpu | None = None
    data: Pods = field(default_factory=Pods)
    train: Pods = field(default_factory=Pods)
    volumes: tuple[Volume, ...] = ()
    workspace: Workspace | None = None
    secrets: tuple[Secret, ...] = ()
    retries: Retries = field(default_factory=Retries)
    trainer: Trainer | None = None
    security_context: SecurityContext | None = None
    publish: str = Field(default="", pattern="^(/.*)?$")

    def images_or(self, images: Images) -> Images:
        """Return the profile's images; those of ``images`` where it names none."""
        return Images(self.images.data or images.data, self.images.train or images.train)


def load_cluster(path: Path) -> Cluster:
    """Read a profile; raise UserError for a missing or broken file and for an unknown or ill-typed key."""
    try:
        tree = read_yaml(path.read_text("utf-8"))
    except OSError as error:
        remedy = "give the cluster profile's path to --cluster"
        raise UserError(f"cannot be read: {error.strerror}", place=str(path), remedy=remedy) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = " ".join(str(error).split())
        raise UserError(f"not valid YAML: {what}", place=str(path), remedy="correct it") from None
    if not isinstance(tree, dict):
        raise UserError("not a mapping", place=str(path), remedy="docs/cluster.yaml shows every key")
    cluster = parse(Cluster, tree, place=str(path))
    for problem, remedy in _faults(cluster):
        raise UserError(problem, place=str(path), remedy=remedy)
    return cluster


def _faults(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Yield ``(problem, remedy)`` for valid keys that contradict each other."""
    for image in ("data", "train"):
        pods: Pods = getattr(cluster, image)
        for name in filter(_SECRET.search, pods.env):
            problem = f"{image}.env contains the value of {name}, which anybody can read in the compiled pipeline"
            yield problem, "put it into a Kubernetes secret, and name that under `secrets`"
        for resource in ("cpu", "memory"):
            request, limit = getattr(pods, resource), getattr(pods, f"{resource}_limit")
            if request and limit and amount_of(request) > amount_of(limit):
                yield f"{image}.{resource} {request} is more than its limit {limit}", "raise the limit"
        for taint in pods.tolerations:
            if not taint.key if taint.operator == "Equal" else taint.value:
                problem = (
                    f"{image}.tolerations: Kubernetes refuses {taint.operator} with key {taint.key!r}, "
                    f"value {taint.value!r}"
                )
                yield problem, "Equal needs a key, Exists takes no value"
    mounts = [volume.path.rstrip("/") for volume in cluster.volumes]
    paths = mounts + [secret.path.rstrip("/") for secret in cluster.secrets if secret.path]
    for path in {path for path in paths if paths.count(path) > 1}:
        yield f"two volumes or secrets are mounted at {path}", "give each its own path"
    for secret in cluster.secrets:
        if not (secret.env or secret.path):
            yield f"the secret {secret.name!r} reaches no pod", "give it `env` (key: variable) or a `path`"
    folders = {"publish": cluster.publish, "trainer.folder": cluster.trainer.folder if cluster.trainer else ""}
    for key, folder in folders.items():
        if folder and not any(is_below(folder, mount) for mount in mounts):
            yield f"{key} names {folder}, which is not on any of the volumes", "mount a volume there, or omit it"


def _node_pod(cluster: Cluster) -> dict[str, Any]:
    """Return the patch of the nodes' pods: volumes, node selector, tolerations, user and pull secrets."""
    pods, context = cluster.train, cluster.security_context
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for number, volume in enumerate(cluster.volumes):
        name = f"volume-{number}"
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": volume.claim}})
        mounts.append(_non_empty({"name": name, "mountPath": volume.path, "subPath": volume.folder}))
    if pods.shared_memory:
        volumes.append({"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": pods.shared_memory}})
        mounts.append({"name": "dshm", "mountPath": "/dev/shm"})
    tolerations = [
        _non_empty({"key": item.key, "operator": item.operator, "value": item.value, "effect": item.effect})
        for item in pods.tolerations
    ]
    spec = {
        "volumes": volumes,
        "containers": [{"name": CONTAINER, "volumeMounts": mounts}],
        "nodeSelector": dict(pods.node_selector),
        "tolerations": tolerations,
        "imagePullSecrets": [{"name": name} for name in cluster.pull_secrets],
        "securityContext": {"runAsUser": context.user, "runAsGroup": context.group} if context else {},
        "terminationGracePeriodSeconds": _GRACE,
    }
    # A service mesh's proxy would keep the nodes from meeting, and the pods from ending.
    return {"metadata": {"labels": {"sidecar.istio.io/inject": "false"}}, "spec": _non_empty(spec)}


def _non_empty(values: dict[str, Any]) -> dict[str, Any]:
    """Return the entries whose value is not empty."""
    return {key: value for key, value in values.items() if value}


def is_below(path: str, folder: str) -> bool:
    """Return whether a path is a folder or in it; both are written without a slash at the end."""
    return f"{path}/".startswith(f"{folder}/")


def amount_of(text: str) -> float:
    """Return a Kubernetes amount (``500m``, ``16Gi``, ``2``) as a number."""
    match = re.fullmatch(r"([0-9]+)([EPTGMK]?)(i?)(m?)", text)
    if match is None:
        raise ValueError(f"{text!r} is not an amount")
    number, prefix, binary, milli = match.groups()
    scale = float((1024 if binary else 1000) ** " KMGTPE".index(prefix or " "))
    return int(number) * scale / (1000 if milli else 1)


def train_job_template(cluster: Cluster, trainer: Trainer, image: str, label: str = "") -> dict[str, Any]:
    """Return the TrainJob of a profile, without its name, its command and its numbers of nodes and processes.

    Args:
        cluster: The profile; the pods get what it gives to the pods of the train image.
        trainer: Its section ``trainer``.
        image: The train image.
        label: Name of the image in artifacts.
    """
    pods = cluster.train
    env = {**pods.env, IMAGE_NAME: label or image, "EMOVERSE_SCRATCH": trainer.folder}
    if pods.threads:
        env["OMP_NUM_THREADS"] = str(pods.threads)
    limits = {"cpu": pods.cpu_limit, "memory": pods.memory_limit or pods.memory}
    if cluster.gpu and "train" in cluster.gpu.steps:
        limits[cluster.gpu.type] = str(cluster.gpu.count)
    resources = {"requests": _non_empty({"cpu": pods.cpu, "memory": pods.memory}), "limits": _non_empty(limits)}
    job = {"name": CONTAINER, "template": {"spec": {"template": _node_pod(cluster)}}}
    patch = {"template": {"spec": {"replicatedJobs": [job]}}}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"labels": {"app.kubernetes.io/name": "emoverse"}},
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": trainer.kind, "name": trainer.runtime},
            "trainer": _non_empty(
                {
                    "image": image,
                    "env": [{"name": name, "value": value} for name, value in env.items()],
                    "resourcesPerNode": _non_empty(resources),
                }
            ),
            "runtimePatches": [{"manager": _MANAGER, "trainingRuntimeSpec": patch}],
        },
    }
