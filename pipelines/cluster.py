"""A cluster profile: where the pods of a run land and what they see, as YAML that is checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Final, Literal

import yaml
from kfp.dsl.constants import WORKSPACE_MOUNT_PATH
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from components.image import Images
from emoverse.config import parse, read_yaml
from emoverse.errors import UserError

Group = Literal["data", "train"]
Computing = Literal["base-model", "convert", "train", "evaluate", "export"]  # steps of the train image
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
    steps: tuple[Computing, ...] = ("train", "evaluate")


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
    for problem, remedy in _faults(cluster):
        raise UserError(problem, place=str(path), remedy=remedy)
    return cluster


def _faults(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Yield ``(problem, remedy)`` for what each key allows and all together do not."""
    for group in ("data", "train"):
        pods: Pods = getattr(cluster, group)
        for name in filter(_SECRET.search, pods.env):
            problem = f"{group}.env gives the value of {name}, which everybody could read in the compiled pipeline"
            yield problem, "put it into a Kubernetes secret, and name that under `secrets`"
        for one in pods.tolerations:
            if not one.key if one.operator == "Equal" else one.value:
                problem = (
                    f"{group}.tolerations: Kubernetes takes no {one.operator} with key {one.key!r}, value {one.value!r}"
                )
                yield problem, "Equal needs a key, Exists takes no value"
    places = [one.path.rstrip("/") for one in cluster.volumes] + [s.path.rstrip("/") for s in cluster.secrets if s.path]
    for twice in {place for place in places if places.count(place) > 1}:
        yield f"two volumes or secrets are mounted at {twice}", "give each a path of its own"
    for secret in cluster.secrets:
        if not (secret.env or secret.path):
            yield f"the secret {secret.name!r} reaches no pod", "give it `env` (key: variable) or a `path`"
    mounts = [one.path.rstrip("/") + "/" for one in cluster.volumes]
    if cluster.publish and not f"{cluster.publish}/".startswith(tuple(mounts)):
        problem = f"publish names {cluster.publish}, which lies on none of the volumes"
        yield problem, "mount a volume there, or leave publish out"
