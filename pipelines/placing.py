"""Say where a task runs: its image, its place in the cluster, what it is told and sees, how often it is tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from kfp import dsl, kubernetes

from emoverse.lineage import IMAGE_NAME, REVISION
from pipelines.cluster import Cluster, Group, Pods
from pipelines.options import Options

# Steps that pull from a network or hold a node for long: their pods are the ones that go away under them. validate as a
# whole is not among them: it also fails for good, when too many rows are bad, after hours that nobody wants thrice.
RETRIED: Final = ("fetch", "validate-part", "train", "evaluate")


@dataclass(frozen=True)
class Placing:
    """Puts the tasks of one pipeline in their places."""

    options: Options

    def put(self, task: Any, group: Group, step: str) -> Any:
        """Place a task that runs ``step`` in the image of ``group``; return the task."""
        options = self.options
        images = options.cluster.named(options.images)
        image = images.data if group == "data" else images.train
        task.set_container_image(image)
        if not options.cache:  # the client's own switch misses the tasks inside a loop
            task.set_caching_options(False)
        if options.revision:  # as a variable: a parameter would make Kubeflow's cache run all again at each commit
            task.set_env_variable(REVISION, options.revision)
        if options.labels or not options.local:
            task.set_env_variable(IMAGE_NAME, options.labels.get(image, image))
        if not options.local:
            retries = options.cluster.retries
            if step in RETRIED and retries.count:
                task.set_retry(retries.count, f"{retries.wait}s", retries.factor, f"{retries.longest}s")
            _settle(task, options.cluster, group, step)
        return task


def config_of(cluster: Cluster) -> dsl.PipelineConfig | None:
    """Return what Kubeflow makes for a run as a whole: its workspace, where the profile has one."""
    if cluster.workspace is None:
        return None
    asked = {"storageClassName": cluster.workspace.storage_class, "accessModes": list(cluster.workspace.access_modes)}
    patch = dsl.KubernetesWorkspaceConfig(pvcSpecPatch={key: value for key, value in asked.items() if value})
    return dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size=cluster.workspace.size, kubernetes=patch))


def _settle(task: Any, cluster: Cluster, group: Group, step: str) -> None:
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
