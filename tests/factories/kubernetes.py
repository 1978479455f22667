"""A real HTTP server on this machine that answers as the Kubernetes API of a cluster with Kubeflow Trainer does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.factories.ranks import nodes

API = "/apis/trainer.kubeflow.org/v1alpha1"
NAMESPACE = "team"
Look = Callable[[dict[str, Any]], str]


class Cluster:
    """TrainJobs by name, and what happens to them.

    Attributes:
        trainer: Whether Trainer is installed.
        runtimes: Names of its cluster-wide runtimes.
        known: Keys that TrainJob's ``spec`` has on this cluster.
        refused: Beginnings of ``METHOD PATH`` that the service account has no right to.
        down: Number of next requests for a job that get no answer.
        look: What becomes of a job; called at each look at it, it returns a condition, or an empty text.
        pods: Pods of every job, and ``logs`` of them by name, a line each with its time in front.
    """

    def __init__(self) -> None:
        self.trainer = True
        self.runtimes = {"torch-distributed"}
        self.known = {"runtimeRef", "trainer", "runtimePatches"}
        self.refused: set[str] = set()
        self.down = 0
        self.look: Look = lambda job: ""
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: list[dict[str, Any]] = []
        self.logs: dict[str, list[str]] = {}
        self.done: list[str] = []

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """Return the status and the body of an answer."""
        if any(f"{method} {path}".startswith(one) for one in self.refused):
            return 403, f'User "pipeline-runner" cannot {method.lower()} {path}'
        if path.startswith(API) and not self.trainer:
            return 404, "404 page not found"
        if path.rstrip("/") == API:
            resource = {"name": "trainjobs", "kind": "TrainJob", "namespaced": True, "singularName": "", "verbs": []}
            return 200, {"kind": "APIResourceList", "groupVersion": "x", "resources": [resource]}
        if found := re.fullmatch(f"{API}/clustertrainingruntimes/(.+)", path):
            return (200, {"metadata": {"name": found[1]}}) if found[1] in self.runtimes else (404, "not found")
        if found := re.fullmatch(f"{API}/namespaces/{NAMESPACE}/trainjobs(/(.+))?", path):
            if self.down and method == "GET":
                self.down -= 1
                return 503, "etcdserver: leader changed"
            return self._job(method, found[2] or body["metadata"]["name"], query, body)
        if path == f"/api/v1/namespaces/{NAMESPACE}/pods":
            return 200, {"kind": "PodList", "items": self.pods}
        if found := re.fullmatch(f"/api/v1/namespaces/{NAMESPACE}/pods/(.+)/log", path):
            assert query["timestamps"] == "True"
            since = datetime.now(UTC).timestamp() - float(query.get("sinceSeconds", "inf"))
            lines = [one for one in self.logs.get(found[1], []) if _seconds(one) >= since]
            return (200, "".join(f"{one}\n" for one in lines).encode()) if found[1] in self.logs else (400, "waiting")
        return 404, "no such path"

    def _job(self, method: str, name: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        known = self.jobs.get(name)
        if method == "POST":
            if known:
                return 409, f"{name} already exists"
            if unknown := sorted(body["spec"].keys() - self.known):
                assert query["fieldValidation"] == "Strict"
                return 400, f'strict decoding error: unknown field "spec.{unknown[0]}"'
            self.done.append(f"create {name}")
            self.jobs[name] = body
            return 201, body
        if known is None:
            return 404, f"{name} not found"
        if method == "DELETE":
            assert query["propagationPolicy"] == "Foreground"
            self.done.append(f"delete {name}")
            return 200, self.jobs.pop(name)
        if condition := self.look(known):
            kind, _, message = condition.partition(": ")
            conditions = [{"type": kind, "status": "True", "reason": f"AllJobs{kind}", "message": message}]
            return 200, {**known, "status": {"conditions": conditions}}
        return 200, known


def pod(node: int, **status: Any) -> dict[str, Any]:
    """Return a pod of a job, as JobSet labels it."""
    labels = {"batch.kubernetes.io/job-completion-index": str(node)}
    metadata = {"name": f"node-{node}", "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": metadata, "spec": {"containers": [{"name": "node"}]}, "status": status}


def logged(text: str, seconds_ago: float = 0.0) -> str:
    """Return a line of a log with its time in front."""
    at = datetime.fromtimestamp(datetime.now(UTC).timestamp() - seconds_ago, UTC)
    return f"{at.strftime('%Y-%m-%dT%H:%M:%S.%f')}000Z {text}"


def _seconds(line: str) -> float:
    return datetime.fromisoformat(line.partition(" ")[0][:26] + "+00:00").timestamp()


class Nodes:
    """Run a job's command on this machine, once a node, with the variables that Trainer's torch runtime sets."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.processes: list[subprocess.Popen[bytes]] = []
        cluster.pods = [pod(0)]

    def look(self, job: dict[str, Any]) -> str:
        """Start the nodes of a new job; return the condition of a running one."""
        if not self.processes:
            trainer = job["spec"]["trainer"]
            env = {entry["name"]: entry["value"] for entry in trainer["env"]}
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
            common = {**os.environ, **env, "PATH": path, "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"])}
            self.processes = [
                subprocess.Popen(
                    trainer["command"], env={**common, **node}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
                for node in nodes(trainer["numNodes"])
            ]
            threading.Thread(target=self._read, daemon=True).start()
        codes = [process.poll() for process in self.processes]
        if any(codes):
            return "Failed: jobset failed due to one or more job failures"
        return "" if None in codes else "Complete: jobset completed successfully"

    def _read(self) -> None:
        out = self.processes[0].stdout
        assert out is not None
        for line in out:
            self.cluster.logs.setdefault("node-0", []).append(logged(line.decode().rstrip("\n")))
            time.sleep(0.001)  # no two lines have one time


@contextmanager
def kubernetes(folder: Path) -> Iterator[Cluster]:
    """Serve the API; ``KUBECONFIG`` names a file in ``folder`` with its address meanwhile."""
    made = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            status, body = made.answer(self.command, parts.path, query, json.loads(sent) if sent else None)
            if isinstance(body, str):  # an error
                body = {"kind": "Status", "status": "Failure", "message": body, "code": status}
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(body, bytes) else "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}],
        "users": [{"name": "test", "user": {"token": "secret"}}],
    }  # fmt: skip
    file = folder / "kubeconfig.yaml"
    file.write_text(yaml.safe_dump(config), "utf-8")
    before = os.environ.get("KUBECONFIG")
    os.environ["KUBECONFIG"] = str(file)
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        os.environ.pop("KUBECONFIG")
        if before is not None:
            os.environ["KUBECONFIG"] = before
