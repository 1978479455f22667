"""Client of Kubeflow Pipelines' REST API (v2beta1): health, experiments, runs.

Every command uses this client, so ``doctor`` and ``submit`` cannot disagree about an address, a proxy or a certificate.
kfp's own client is not used: it follows redirects with a POST, reads a login page as an answer without an id, and fails
on a broken ``~/.config/kfp/context.json``.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

from urllib3.filepost import encode_multipart_formdata

from emoverse.errors import UserError
from emoverse.http import HttpClient, NoAnswerError, bearer, check_address, json_object, token_from

TOKEN: Final = "KUBEFLOW_TOKEN"  # the variable that contains the bearer token of a cluster that asks for one
_ERROR_AS_LOG: Final = re.compile(r'\{"error_message": ?"[^"]*Failed to read logs? .*\Z', re.DOTALL)
_PORT_FORWARD: Final = (
    "check the address; `kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80` makes one at "
    "http://localhost:8080"
)


def api_address(host: str) -> str:
    """Return the address that the API's paths are appended to, from one that may be copied from the browser.

    The page's own part (``#/experiments``, a query) is cut off, and the central dashboard's ``/_/pipeline`` is the
    ``/pipeline`` that it shows in a frame.

    Raises:
        UserError: It is not an http(s) address.
    """
    check_address(host)
    parts = urlsplit(host)
    path = parts.path.rstrip("/")
    if path.startswith("/_/"):
        path = path.removeprefix("/_")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


class KubeflowApi:
    """Client of Kubeflow Pipelines at ``host``.

    Every method raises NoAnswerError when no answer comes, and UserError when Kubeflow refuses or when something other
    than Kubeflow answers.
    """

    def __init__(self, host: str, *, retries: int = 2) -> None:
        self.address = api_address(host)
        self._token = token_from(TOKEN)
        self._client = HttpClient(authorization=bearer(self._token), retries=retries)
        # A busy server took 15 s to start a run, and had started it when its client gave up after 10 s. A list of runs
        # contains each run's whole pipeline, and took as long.
        self._patient = HttpClient(authorization=bearer(self._token), retries=retries, timeout=120.0)

    def run_url(self, run_id: str) -> str:
        """Return where a person looks at a run."""
        return f"{self.address}/#/runs/details/{run_id}"

    def health(self) -> dict[str, Any]:
        """Return the version and whether namespaces are separated (``multi_user``)."""
        return self._call("GET", "healthz")

    def experiment(self, name: str, namespace: str = "") -> str:
        """Return the id of the experiment called ``name``, which is created where there is none."""
        known = self._named("experiments", "experiments", name, {"namespace": namespace} if namespace else {})
        if not known.get("experiment_id"):
            body = {"display_name": name, **({"namespace": namespace} if namespace else {})}
            known = self._call("POST", "experiments", body=body)
        return self._id_of(known, "experiment_id")

    def upload(
        self, pipeline: str, version: str, text: str, *, description: str, namespace: str = ""
    ) -> dict[str, str]:
        """Return the reference of a version of a pipeline; upload it where the server does not have it yet.

        Args:
            pipeline: Name of the pipeline, which is created if missing.
            version: Name of the version.
            text: The compiled pipeline.
            description: Description of the version.
            namespace: Namespace on a cluster with several users.
        """
        scope = {"namespace": namespace} if namespace else {}
        known = self._named("pipelines", "pipelines", pipeline, scope)
        if not known.get("pipeline_id"):
            known = self._call("POST", "pipelines", body={"name": pipeline, "display_name": pipeline, **scope})
        pipeline_id = self._id_of(known, "pipeline_id")
        versions = f"pipelines/{quote(pipeline_id, safe='')}/versions"
        made = self._named(versions, "pipeline_versions", version, {})
        if not made.get("pipeline_version_id"):
            query = {"name": version, "pipelineid": pipeline_id, "description": description}
            content, kind = encode_multipart_formdata({"uploadfile": ("emoverse.yaml", text, "application/yaml")})
            made = self._call(
                "POST", "pipelines/upload_version", query=query, body=content, headers={"Content-Type": kind}
            )
        version_id = self._id_of(made, "pipeline_version_id")
        return {"pipeline_id": pipeline_id, "pipeline_version_id": version_id}

    def start_run(
        self, experiment: str, name: str, version: Mapping[str, str], parameters: Mapping[str, Any], description: str
    ) -> str:
        """Start a run of an uploaded version and return its id.

        Args:
            experiment: Id of the experiment.
            name: Display name of the run.
            version: Reference of the version, from `upload`.
            parameters: The run's parameters.
            description: Description of the run.
        """
        body = {
            "display_name": name,
            "description": description,
            "experiment_id": experiment,
            "pipeline_version_reference": version,
            "runtime_config": {"parameters": parameters},
        }
        return self._id_of(self._call("POST", "runs", body=body), "run_id")

    def start_recurring_run(
        self, experiment: str, name: str, version: Mapping[str, str], parameters: Mapping[str, Any], cron: str
    ) -> str:
        """Start a run of an uploaded version at each of some times; return the id of the recurring run.

        Args:
            experiment: Id of the experiment.
            name: Display name of the runs.
            version: Reference of the version, from `upload`.
            parameters: The runs' parameters.
            cron: The times: six fields, seconds first.
        """
        body = {
            "display_name": name,
            "experiment_id": experiment,
            "pipeline_version_reference": version,
            "runtime_config": {"parameters": parameters},
            "trigger": {"cron_schedule": {"cron": cron}},
            "max_concurrency": "1",
            "mode": "ENABLE",
            "no_catchup": True,
        }
        return self._id_of(self._call("POST", "recurringruns", body=body), "recurring_run_id")

    def run(self, run_id: str) -> dict[str, Any]:
        """Return a run's state and its tasks' details."""
        return self._call("GET", f"runs/{quote(run_id, safe='')}")

    def runs(self, *, namespace: str = "", count: int = 20) -> list[dict[str, Any]]:
        """Return the latest runs, newest first."""
        query = {
            "sort_by": "created_at desc",
            "page_size": str(count),
            **({"namespace": namespace} if namespace else {}),
        }
        return list(self._call("GET", "runs", query=query).get("runs") or [])

    def documents_of(self, run: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the documents of a run's compiled pipeline, whether it was started from a file or from a version."""
        spec = run.get("pipeline_spec")
        reference = run.get("pipeline_version_reference") or {}
        if not spec and reference.get("pipeline_version_id"):
            pipeline, version = (quote(reference[f"pipeline{key}_id"], safe="") for key in ("", "_version"))
            spec = self._call("GET", f"pipelines/{pipeline}/versions/{version}").get("pipeline_spec")
        if not spec:
            return []
        return [spec["pipeline_spec"], spec.get("platform_spec") or {}] if "pipeline_spec" in spec else [spec]

    def workflow(self, run_id: str) -> dict[str, Any]:
        """Return the Argo workflow of a run; only the older API knows its nodes' places and messages.

        Argo compresses the nodes of a workflow that would be larger than 1 MB; they are returned as they were.
        """
        answer = self._call("GET", f"runs/{quote(run_id, safe='')}", api="v1beta1")
        workflow = dict(json.loads((answer.get("pipeline_runtime") or {}).get("workflow_manifest") or "{}"))
        status = workflow.get("status") or {}
        if packed := status.get("compressedNodes"):
            nodes = json.loads(gzip.decompress(base64.b64decode(packed)))
            workflow["status"] = {**status, "nodes": nodes}
        return workflow

    def log(self, run_id: str, pod: str, node: str, *, namespace: str, day: str) -> str:
        """Return a pod's log; an empty text where it is gone.

        The API server finds a log by the pod's name, or in its archive by the node's id. Kubeflow's UI does not pass
        these requests on; at its address the log has a path of the UI's own.

        Args:
            run_id: The run.
            pod: Name of the pod.
            node: Id of the pod's node in the workflow.
            namespace: Namespace of the pod.
            day: Date on which it started, as 2026-01-31; archives may be ordered by it.
        """
        run, names = quote(run_id, safe=""), [quote(name, safe="") for name in (pod, node)]
        where = {"podname": pod, "podnamespace": namespace, "runid": run_id, "createdat": day}
        of_ui = "k8s/pod/logs?" + "&".join(f"{key}={quote(value, safe='')}" for key, value in where.items())
        for path in (*(f"apis/v1alpha1/runs/{run}/nodes/{name}/log" for name in names), of_ui):
            reply = self._patient.request("GET", f"{self.address}/{path}")
            # The server sends status 200 before it looks for the log; its error then follows as the text.
            text = _ERROR_AS_LOG.sub("", reply.data.decode("utf-8", "replace")) if reply.status == 200 else ""
            if text:
                return text
        return ""

    def retry(self, run_id: str) -> None:
        """Restart a failed run from its failed steps."""
        self._call("POST", f"runs/{quote(run_id, safe='')}:retry")

    def terminate(self, run_id: str) -> None:
        """Stop a run."""
        self._call("POST", f"runs/{quote(run_id, safe='')}:terminate")

    def _named(self, path: str, key: str, name: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Return the one of a list that has a name; empty for none."""
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        answer = self._call("GET", path, query={"filter": json.dumps({"predicates": [predicate]}), **query})
        items = answer.get(key)
        return dict(items[0]) if isinstance(items, list) and items and isinstance(items[0], dict) else {}

    def _id_of(self, answer: Mapping[str, Any], key: str) -> str:
        if not (isinstance(answer.get(key), str) and answer[key]):
            problem = f"its answer has no {key}, so it is not Kubeflow Pipelines or a page in front of it"
            remedy = "no run was started; give the address of Kubeflow Pipelines, past any login page"
            raise UserError(problem, place=self.address, remedy=remedy)
        return str(answer[key])

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        api: str = "v2beta1",
    ) -> dict[str, Any]:
        url = f"{self.address}/apis/{api}/{path}"
        if query:
            url += "?" + "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
        try:
            client = self._patient if method == "POST" or path == "runs" else self._client
            reply = client.request(method, url, body=body, headers=headers)
        except NoAnswerError as error:
            remedy = _PORT_FORWARD if error.remedy == "check the address" else error.remedy
            problem = f"the endpoint gives no answer: {error.problem}"
            raise NoAnswerError(problem, place=error.place, remedy=remedy) from None
        if reply.status in (401, 403) and not (self._token and reply.status == 403):
            remedy = f"put a fresh token into {TOKEN}" if self._token else f"put a token into {TOKEN}"
            problem = f"the endpoint answers with HTTP {reply.status}"
            problem += ": the token is refused or has expired" if self._token else ""
            raise UserError(problem, place=self.address, remedy=remedy)
        if reply.status >= 500 or reply.status in (408, 429):
            problem = f"the endpoint answers with HTTP {reply.status}"
            raise NoAnswerError(problem, place=self.address, remedy="look at Kubeflow's own pods")
        answer = json_object(reply)
        if reply.status == 404 and path == "healthz":
            problem, remedy = "the endpoint answers with HTTP 404", "give the address of Kubeflow Pipelines"
            raise UserError(problem, place=url, remedy=remedy)
        if reply.status >= 300:
            text = reply.data[:300].decode("utf-8", "replace").strip()
            problem = f"Kubeflow refuses (HTTP {reply.status}): {self._without_token(text)}"
            raise UserError(problem, place=self.address, remedy="check your rights and the namespace (--namespace)")
        if answer is None:
            remedy = "give the address of Kubeflow Pipelines itself, past any login page"
            raise UserError("it answers something else than Kubeflow Pipelines does", place=url, remedy=remedy)
        return answer

    def _without_token(self, text: str) -> str:
        return text.replace(self._token, "***") if self._token else text
