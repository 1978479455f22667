"""Describe the pods that train on several nodes: a cluster profile's TrainJob, which the step ``train`` completes."""

from __future__ import annotations

from typing import Any

from emoverse.artifacts.lineage import IMAGE_NAME
from emoverse.kubernetes_api import CONTAINER, GROUP, VERSION
from pipelines.cluster import Cluster, Trainer

_MANAGER = "emoverse/train"  # whose patches of the runtime they are
_GRACE = 120  # seconds that a node which is drained has to save a checkpoint


def template(cluster: Cluster, trainer: Trainer, image: str, label: str = "") -> dict[str, Any]:
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
    job = {"name": CONTAINER, "template": {"spec": {"template": _pod(cluster)}}}
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


def _pod(cluster: Cluster) -> dict[str, Any]:
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
