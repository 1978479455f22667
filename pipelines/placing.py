"""Say where a task runs: its image, its place in the cluster, what it is told, how often it is tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from emoverse.lineage import IMAGE_NAME, REVISION
from pipelines.cluster import Group, settle
from pipelines.options import Options

# Steps that pull from a network or hold a node for long: their pods are the ones that go away under them.
RETRIED: Final = ("fetch", "train", "evaluate")


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
            task.set_env_variable(IMAGE_NAME, options.labels.get(image, image))
        if not options.local:
            retries = options.cluster.retries
            if step in RETRIED and retries.count:
                task.set_retry(retries.count, f"{retries.wait}s", retries.factor, f"{retries.longest}s")
            settle(task, options.cluster, group, step)
        return task
