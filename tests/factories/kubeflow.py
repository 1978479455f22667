"""Real HTTP servers on this machine that answer as Kubeflow Pipelines' v2beta1 API and as a container registry do."""

from __future__ import annotations

import gzip
import json
import re
import threading
import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

COMPILED = Path(__file__).resolve().parents[2] / "pipelines/emoverse.yaml"
RUN = "11111111-2222-3333-4444-555555555555"
STARTED = "2026-01-01T00:00:00Z"


class _Handler(BaseHTTPRequestHandler):
    def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(raw)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _serving(handler: type[_Handler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def groups_of(pipeline: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the tasks of each loop and exit handler of a compiled pipeline."""
    return {name: one["dag"]["tasks"] for name, one in pipeline["components"].items() if "dag" in one}


def tasks_of(pipeline: Mapping[str, Any]) -> dict[str, Any]:
    """Return every task of a compiled pipeline by name, whatever loop or exit handler it is in."""
    groups = (pipeline["root"]["dag"]["tasks"], *groups_of(pipeline).values())
    return {name: task for tasks in groups for name, task in tasks.items()}


WORKFLOW = "emoverse-6clbw"


def node(path: str, phase: str, message: str = "", *, kind: str = "") -> dict[str, Any]:
    """Return an Argo node as the workflow controller writes it; a path is the names of its templates' tasks."""
    name = f"{WORKFLOW}.{path}"
    kind = kind or ("Skipped" if phase == "Skipped" else "Pod" if path.endswith(("executor", "driver", ")")) else "DAG")
    template = "system-container-driver" if path.endswith("driver") else "system-container-impl"
    return {
        "id": f"{WORKFLOW}-{zlib.crc32(name.encode())}", "name": name, "displayName": path.rpartition(".")[2],
        "type": kind, "templateName": template, "phase": phase, "message": message, "startedAt": STARTED,
        "finishedAt": "2026-01-01T00:01:30Z" if phase not in ("Pending", "Running") else None,
    }  # fmt: skip


def nodes_of(steps: Mapping[str, str | tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the nodes of steps: path -> phase of its executor (Skipped: taken from the cache), or (phase, message)."""
    made = [node("root-driver", "Succeeded"), node("root", "Running")]
    for number, (path, state) in enumerate(steps.items()):
        phase, message = state if isinstance(state, tuple) else (state, "")
        own = [node(f"{path}-driver", "Succeeded"), node(path, "Succeeded"), node(f"{path}.executor", phase, message)]
        made += [{**one, "startedAt": f"2026-01-01T00:00:{number:02}Z"} for one in own]
    return made


class Kubeflow:
    """Record what the client sends; let a run go through ``states``, one a question.

    A state is (the run's state, steps as ``nodes_of`` takes them). ``logs``: path of a step -> its pod's log;
    of those in ``archived`` the pod is gone, and only the node's id finds the log. ``compressed``:
    the workflow is larger than 1 MB. ``terminated``: a person ended the run. ``ui``: the address is that of Kubeflow's
    UI, which has logs at a path of its own.
    """

    def __init__(self) -> None:
        self.host = ""
        self.token = ""
        self.seen: list[tuple[str, str]] = []
        self.authorizations: set[str] = set()
        self.experiments: list[dict[str, Any]] = []
        self.pipelines: list[dict[str, Any]] = []
        self.versions: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.recurring: list[dict[str, Any]] = []
        self.retried: list[str] = []
        self.states: list[tuple[str, dict[str, Any]]] = [("SUCCEEDED", {})]
        self.logs: dict[str, str] = {}
        self.archived: set[str] = set()
        self.compressed = False
        self.terminated = False
        self.ui = False

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        where = path.removeprefix("/apis/v2beta1/")
        created = re.fullmatch("pipelines/([^/]+)/versions", where)
        if (method, where) == ("GET", "healthz"):
            return 200, {"multi_user": False}
        for name, known in (("experiments", self.experiments), ("pipelines", self.pipelines)):
            if (method, where) == ("GET", name):
                return self._listed(name, known, query)
            if (method, where) == ("POST", name):
                known.append({**body, f"{name[:-1]}_id": f"{name[:-1]}-{len(known)}"})
                return 200, known[-1]
        if method == "GET" and created:
            own = [one for one in self.versions if one["pipeline_id"] == created[1]]
            return self._listed("pipeline_versions", own, query)
        if (method, where) == ("POST", "pipelines/upload_version"):
            return 200, self._upload(query, body)
        if method == "GET" and (found := re.fullmatch("pipelines/[^/]+/versions/(.+)", where)):
            return 200, next(one for one in self.versions if one["pipeline_version_id"] == found[1])
        if method == "POST" and where in ("runs", "recurringruns"):
            # Tests look at what a run consists of, wherever it comes from.
            version = body.get("pipeline_version_reference", {}).get("pipeline_version_id")
            spec = next((one["pipeline_spec"] for one in self.versions if one["pipeline_version_id"] == version), None)
            (self.runs if where == "runs" else self.recurring).append({"pipeline_spec": spec, **body})
            return 200, {**body, "run_id": RUN, "recurring_run_id": RUN, "state": "PENDING"}
        if (method, where) == ("GET", "runs"):
            return 200, {"runs": [{**one, "run_id": RUN} for one in reversed(self.runs)]}
        if (method, where) == ("GET", f"runs/{RUN}"):
            self.state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            if self.state[0] == "DOWN":
                return 503, {"error": "no pod answers"}
            sent = self.runs[-1] if self.runs else {}
            return 200, {**sent, "run_id": RUN, "state": self.state[0], "created_at": STARTED}
        if (method, path) == ("GET", f"/apis/v1beta1/runs/{RUN}"):
            nodes = {one["id"]: one for one in nodes_of(self.state[1])}
            status: dict[str, Any] = {"nodes": nodes}
            if self.compressed:
                status = {
                    "nodes": None,
                    "compressedNodes": b64encode(gzip.compress(json.dumps(nodes).encode())).decode(),
                }
            spec = {"activeDeadlineSeconds": 0} if self.terminated else {}
            workflow = {"metadata": {"name": WORKFLOW, "namespace": "team-a"}, "spec": spec, "status": status}
            return 200, {"run": {}, "pipeline_runtime": {"workflow_manifest": json.dumps(workflow)}}
        if (method, path) == ("GET", "/k8s/pod/logs") and self.ui:
            assert (query["runid"], query["podnamespace"]) == ([RUN], ["team-a"])
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", query["createdat"][0])
            pods = {f"-impl-{node(f'{step}.executor', 'Failed')['id'].rpartition('-')[2]}": step for step in self.logs}
            step = next((step for end, step in pods.items() if query["podname"][0].endswith(end)), None)
            return (200, self.logs[step].encode()) if step else (500, {"error": "Could not get main container logs"})
        found = re.fullmatch(f"/apis/v1alpha1/runs/{RUN}/nodes/(.+)/log", path)
        if method == "GET" and found and not self.ui:
            hashes = {path: node(f"{path}.executor", "Failed")["id"].rpartition("-")[2] for path in self.logs}
            known = {
                f"{WORKFLOW}-{number}" if path in self.archived else f"-impl-{number}": path
                for path, number in hashes.items()
            }
            step = next((path for end, path in known.items() if found[1].endswith(end)), None)
            error = {
                "error_message": f"BadRequestError: Failed to read logs for run {RUN}: no such key",
                "error_details": "",
            }
            return 200, self.logs[step].encode() if step else error  # the status is sent before the log is looked for
        if (method, where) == ("POST", f"runs/{RUN}:retry"):
            self.retried.append(RUN)
            return 200, {}
        return 404, {"error": "no such path"}

    def _listed(self, key: str, known: list[dict[str, Any]], query: dict[str, list[str]]) -> tuple[int, Any]:
        (wanted,) = json.loads(query["filter"][0])["predicates"]
        found = [one for one in known if one["display_name"] == wanted["stringValue"]]
        return 200, {key: found, "total_size": len(found)} if found else {}

    def _upload(self, query: dict[str, list[str]], body: bytes) -> dict[str, Any]:
        _, _, rest = body.partition(b"\r\n\r\n")
        documents = list(yaml.safe_load_all(rest.rpartition(b"\r\n--")[0].decode()))
        spec = documents[0] if len(documents) == 1 else {"pipeline_spec": documents[0], "platform_spec": documents[1]}
        self.versions.append({
            "pipeline_id": query["pipelineid"][0], "pipeline_version_id": f"version-{len(self.versions)}",
            "display_name": query["name"][0], "description": query["description"][0], "pipeline_spec": spec,
        })  # fmt: skip
        return self.versions[-1]


@contextmanager
def kubeflow() -> Iterator[Kubeflow]:
    """Serve Kubeflow Pipelines' API; asks for the bearer ``token`` when one is set."""
    made = Kubeflow()

    class Handler(_Handler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            sent = self.rfile.read(length) if length else b""
            json_sent = "json" in (self.headers.get("Content-Type") or "")
            body = json.loads(sent) if sent and json_sent else sent or None
            made.seen.append((self.command, parts.path))
            if made.token and self.headers.get("Authorization") != f"Bearer {made.token}":
                self.reply(401, {"error": "who are you?"})
                return
            self.reply(*made.answer(self.command, parts.path, parse_qs(parts.query), body))

        def do_POST(self) -> None:
            self.do_GET()

    with _serving(Handler) as address:
        made.host = f"http://{address}"
        yield made


@contextmanager
def registry(name: str, digest: str, *, token: str = "") -> Iterator[str]:
    """Serve a registry that holds one image; with ``token`` as Docker Hub does, to bearers of one only."""

    class Handler(_Handler):
        def do_HEAD(self) -> None:
            if self.path.startswith("/token"):
                self.reply(200, {"token": token})
            elif token and self.headers.get("Authorization") != f"Bearer {token}":
                realm = f'Bearer realm="http://{self.headers["Host"]}/token",service="me",scope="pull"'
                self.reply(401, {}, {"WWW-Authenticate": realm})
            else:
                known = re.fullmatch(rf"/v2/{name}/manifests/{digest}", self.path)
                self.reply(200 if known else 404, {})

        def do_GET(self) -> None:
            self.do_HEAD()

    with _serving(Handler) as address:
        yield address
