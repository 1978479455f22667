"""Client of the Kubernetes API: the TrainJobs of Kubeflow Trainer v2, their pods and their logs.

Only this module imports the client ``kubernetes``, which knows the service account of a pod, kubeconfig files and the
logins of cloud providers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from emoverse.errors import UserError
from emoverse.http import NoAnswerError

GROUP: Final = "trainer.kubeflow.org"
VERSION: Final = "v1alpha1"
_JOBS: Final = "trainjobs"
RUNTIMES: Final = {"ClusterTrainingRuntime": "clustertrainingruntimes", "TrainingRuntime": "trainingruntimes"}
RUNTIME: Final = "torch-distributed"  # for torch, which Trainer brings along
CONTAINER: Final = "node"  # of Trainer's own runtimes, as is the name of the job of its nodes
NODE_LABEL: Final = "batch.kubernetes.io/job-completion-index"
JOB_LABEL: Final = "jobset.sigs.k8s.io/jobset-name"
_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # in every pod that has a service account
_TIMEOUT: Final = (10, 60)  # seconds to connect, and to wait for data
_OLDEST: Final = "install Kubeflow Trainer 2.3 or later there, or set train.nodes to 1"


class KubernetesApi:
    """Request objects of one namespace from the Kubernetes API.

    Every method raises NoAnswerError when no answer comes, and UserError when Kubernetes refuses.
    """

    def __init__(self, client: Any, namespace: str) -> None:
        from kubernetes.client import CoreV1Api, CustomObjectsApi

        self.namespace, self.address = namespace, str(client.configuration.host)
        self._core, self._custom = CoreV1Api(client), CustomObjectsApi(client)

    def check_trainer(self, kind: str, runtime: str) -> None:
        """Raise UserError unless the cluster has Kubeflow Trainer and the runtime."""
        with self._answers():
            known = self._found(self._custom.get_api_resources, GROUP, VERSION)
        if known is None or _JOBS not in {resource.name for resource in known.resources}:
            problem = "this cluster has no Kubeflow Trainer, which training on several nodes needs"
            raise UserError(problem, place=self.address, remedy=_OLDEST)
        plural = RUNTIMES[kind]
        ask, where = self._custom.get_cluster_custom_object, [GROUP, VERSION, plural, runtime]
        if kind == "TrainingRuntime":
            ask, where = self._custom.get_namespaced_custom_object, [GROUP, VERSION, self.namespace, plural, runtime]
        with self._answers():
            if self._found(ask, *where, unreadable=True) is None:
                remedy = "name one of those that `kubectl get clustertrainingruntimes` lists under `trainer`"
                problem = f"Kubeflow Trainer has no {kind} {runtime!r} here"
                raise UserError(problem, place=self.address, remedy=f"{remedy} in the cluster profile")

    def train_job(self, name: str) -> dict[str, Any] | None:
        """Return a TrainJob; None where there is none."""
        ask = self._custom.get_namespaced_custom_object
        with self._answers(name):
            job: dict[str, Any] | None = self._found(ask, GROUP, VERSION, self.namespace, _JOBS, name)
        return job

    def create_train_job(self, manifest: Mapping[str, Any]) -> None:
        """Create a TrainJob.

        A field that the cluster does not know is refused: an older Trainer would drop the volumes silently.
        """
        with self._answers(manifest["metadata"]["name"]):
            self._custom.create_namespaced_custom_object(
                GROUP, VERSION, self.namespace, _JOBS, manifest, field_validation="Strict",
                _request_timeout=_TIMEOUT,
            )  # fmt: skip

    def delete_train_job(self, name: str) -> None:
        """Delete a TrainJob; it is gone when its pods are. One that is gone already is no error."""
        with self._answers(name):
            self._found(
                self._custom.delete_namespaced_custom_object, GROUP, VERSION, self.namespace, _JOBS, name,
                propagation_policy="Foreground",
            )  # fmt: skip

    def pods_of(self, name: str) -> list[Any]:
        """Return the pods of a TrainJob, the newest last; none where this service account may not list them."""
        with self._answers(name):
            answer = self._found(
                self._core.list_namespaced_pod,
                self.namespace,
                label_selector=f"{JOB_LABEL}={name}",
                unreadable=True,
            )
        pods = answer.items if hasattr(answer, "items") and not isinstance(answer, dict) else []
        return sorted(pods, key=lambda pod: pod.metadata.creation_timestamp)

    def log(self, pod: str, seconds: int | None = None) -> list[str]:
        """Return lines of a pod's log, each with its time in front; those of the last ``seconds``, None for all.

        Empty where the container has not started, or this service account may not read logs.
        """
        with self._answers(pod):
            text = self._found(
                self._core.read_namespaced_pod_log, pod, self.namespace, container=CONTAINER, timestamps=True,
                unreadable=True, not_yet=True, **({"since_seconds": seconds} if seconds else {}),
            )  # fmt: skip
        return text.splitlines() if isinstance(text, str) else []

    def _found(self, ask: Any, *where: Any, unreadable: bool = False, not_yet: bool = False, **options: Any) -> Any:
        """Return an answer; None for HTTP 404.

        Return an empty dictionary for 403 with ``unreadable``, and for 400 with ``not_yet``.
        """
        from kubernetes.client import ApiException

        try:
            return ask(*where, _request_timeout=_TIMEOUT, **options)
        except ApiException as error:
            if error.status == 404:
                return None
            if (error.status == 403 and unreadable) or (error.status == 400 and not_yet):
                return {}
            raise

    @contextmanager
    def _answers(self, name: str = "") -> Iterator[None]:
        """Turn the client's errors into ours."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        place = f"TrainJob {name}" if name else self.address
        try:
            yield
        except ApiException as error:
            message = _message(error)
            if error.status in (408, 429) or error.status >= 500 or not error.status:
                problem = f"Kubernetes answers with HTTP {error.status}: {message}"
                raise NoAnswerError(problem, place=place, remedy="try again later") from None
            if error.status in (401, 403):
                remedy = "give the run's service account the role that docs/kubeflow.md shows"
                raise UserError(f"Kubernetes refuses: {message}", place=place, remedy=remedy) from None
            if "unknown field" in message:
                problem = f"this cluster's Kubeflow Trainer is too old: {message}"
                raise UserError(problem, place=place, remedy=_OLDEST) from None
            remedy = "correct the cluster profile, or the training runtime it names"
            problem = f"Kubernetes refuses (HTTP {error.status}): {message}"
            raise UserError(problem, place=place, remedy=remedy) from None
        except HTTPError as error:
            problem = f"the Kubernetes API gives no answer: {_innermost(error)}"
            raise NoAnswerError(problem, place=self.address, remedy="check that this machine reaches it") from None


def connect(namespace: str = "") -> KubernetesApi:
    """Return the API of this pod's cluster, elsewhere of the cluster that kubectl uses.

    ``namespace`` defaults to the pod's own, elsewhere to that of kubectl's context.

    Raises:
        UserError: No cluster is known.
    """
    from kubernetes import client, config

    file = os.environ.get("KUBECONFIG", "")
    try:
        if not file and (_ACCOUNT / "token").is_file():
            settings = client.Configuration()
            config.load_incluster_config(client_configuration=settings)
            own = (_ACCOUNT / "namespace").read_text("utf-8").strip()
            return KubernetesApi(client.ApiClient(settings), namespace or own)
        made = config.new_client_from_config(config_file=file or None)
        _, context = config.list_kube_config_contexts(config_file=file or None)
    except (config.ConfigException, OSError) as error:
        problem = f"no Kubernetes cluster is known here: {error}"
        raise UserError(problem, place=file or "~/.kube/config", remedy="set KUBECONFIG, or run in a pod") from None
    return KubernetesApi(made, namespace or context["context"].get("namespace") or "default")


def _message(error: Any) -> str:
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = error.reason
    return " ".join(str(message).split())


def _innermost(error: Any) -> str:
    return str(getattr(error, "reason", None) or error).rpartition(": ")[2] or type(error).__name__
