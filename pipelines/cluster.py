"""A cluster profile: where the pods of a run land and what they see, as YAML that is checked before anything runs."""

from __future__ import annotations

import re
from dataclasses import field
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from kfp import dsl, kubernetes
from kfp.dsl.constants import WORKSPACE_MOUNT_PATH
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from components.image import Images
from emoverse.errors import UserError
from emoverse.params import parse
from emoverse.yaml_text import read_yaml

Group = Literal["data", "train"]
_frozen = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
_AMOUNT: Final = r"^[0-9]+([EPTGMK]i?|m)?$"
_SECRET: Final = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSPHRASE|API_?KEY|SECRET_ACCESS_KEY)$", re.IGNORECASE)
WORKSPACE: Final = str(
    WORKSPACE_MOUNT_PATH
)  # where Kubeflow mounts a run's workspace, for tasks that are told this path


@_frozen
class ImageNames:
    """The two images, by digest; empty: the ones the code names."""

    data: str = ""
    train: str = ""


@_frozen
class Gpu:
    """How many accelerators of which resource type the pods of ``steps`` get."""

    type: str = "nvidia.com/gpu"
    count: int = Field(default=1, ge=1)
    steps: tuple[str, ...] = ("train", "evaluate")


@_frozen
class Toleration:
    """A taint the pods tolerate, as Kubernetes writes it."""

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
    """A volume that Kubeflow makes for each run, to keep raw corpora in, and removes with it.

    ``storage_class`` and ``access_modes`` are the cluster's own unless given.
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
class Retries:
    """How often a step is tried again when its pod goes away: after ``wait`` seconds, then ``factor`` times that."""

    count: int = Field(default=3, ge=0)
    wait: int = Field(default=60, ge=0)
    factor: float = Field(default=2.0, ge=1.0)
    longest: int = Field(default=900, ge=0)


@_frozen
class Pods:
    """What the pods of one image get; amounts as Kubernetes writes them (``500m``, ``16Gi``)."""

    cpu: str = Field(default="", pattern=f"^$|{_AMOUNT}")
    memory: str = Field(default="", pattern=f"^$|{_AMOUNT}")
    shared_memory: str = Field(default="", pattern=f"^$|{_AMOUNT}")
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)


@_frozen
class Cluster:
    """The whole profile. ``publish`` is a folder on a volume where each run leaves its report and its end."""

    images: ImageNames = field(default_factory=ImageNames)
    pull_secrets: tuple[str, ...] = ()
    gpu: Gpu | None = None
    data: Pods = field(default_factory=Pods)
    train: Pods = field(default_factory=Pods)
    volumes: tuple[Volume, ...] = ()
    workspace: Workspace | None = None
    secrets: tuple[Secret, ...] = ()
    retries: Retries = field(default_factory=Retries)
    publish: str = Field(default="", pattern="^(/.*)?$")

    def named(self, images: Images) -> Images:
        """Return the images of a run: those given, unless the profile names others."""
        return Images(self.images.data or images.data, self.images.train or images.train)


def config_of(cluster: Cluster) -> dsl.PipelineConfig | None:
    """Return what Kubeflow makes for a run as a whole: its workspace, where the profile has one."""
    if cluster.workspace is None:
        return None
    asked = {"storageClassName": cluster.workspace.storage_class, "accessModes": list(cluster.workspace.access_modes)}
    patch = dsl.KubernetesWorkspaceConfig(pvcSpecPatch={key: value for key, value in asked.items() if value})
    return dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size=cluster.workspace.size, kubernetes=patch))


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
        raise UserError("holds no mapping", place=str(path), remedy="see docs/cluster.yaml for what may be in it")
    cluster = parse(Cluster, tree, place=str(path))
    for group in ("data", "train"):
        for name in getattr(cluster, group).env:
            if _SECRET.search(name):
                problem = f"{group}.env gives the value of {name}, which everybody could read in the compiled pipeline"
                remedy = "put it into a Kubernetes secret, and name that under `secrets`"
                raise UserError(problem, place=str(path), remedy=remedy)
    for place in (v.path for v in cluster.volumes):
        if cluster.publish == place or cluster.publish.startswith(place.rstrip("/") + "/"):
            break
    else:
        if cluster.publish:
            problem = f"publish names {cluster.publish}, which lies on none of the volumes"
            raise UserError(problem, place=str(path), remedy="mount a volume there, or leave publish out")
    return cluster


def settle(task: Any, cluster: Cluster, group: Group, step: str) -> None:
    """Give a task of the pipeline what the profile says for its image and its step."""
    pods: Pods = getattr(cluster, group)
    if pods.cpu:
        task.set_cpu_request(pods.cpu)
    if pods.memory:
        task.set_memory_request(pods.memory).set_memory_limit(pods.memory)
    if cluster.gpu and step in cluster.gpu.steps:
        task.set_accelerator_type(cluster.gpu.type).set_accelerator_limit(cluster.gpu.count)
    for key, value in pods.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for one in pods.tolerations:
        kubernetes.add_toleration(task, key=one.key, operator=one.operator, value=one.value, effect=one.effect)
    if pods.shared_memory:
        kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit=pods.shared_memory)
    for key, value in pods.env.items():
        task.set_env_variable(key, value)
    _attach(task, cluster)


def _attach(task: dsl.PipelineTask, cluster: Cluster) -> None:
    for volume in cluster.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.path, volume.folder)
    for secret in cluster.secrets:
        if secret.env:
            kubernetes.use_secret_as_env(task, secret.name, secret.env)
        if secret.path:
            kubernetes.use_secret_as_volume(task, secret.name, secret.path)
    if cluster.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.pull_secrets))
