"""Real HTTP servers on this machine that answer as Kubeflow Pipelines' v2beta1 API and as a container registry do."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

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


class Kubeflow:
    """Record what the client sends; let a run go through ``states``, one a question: (run's state, {step: state})."""

    def __init__(self) -> None:
        self.host = ""
        self.token = ""
        self.seen: list[tuple[str, str]] = []
        self.authorizations: set[str] = set()
        self.experiments: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.states: list[tuple[str, dict[str, str]]] = [("SUCCEEDED", {})]

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        where = path.removeprefix("/apis/v2beta1/")
        if (method, where) == ("GET", "healthz"):
            return 200, {"multi_user": False}
        if (method, where) == ("GET", "experiments"):
            (wanted,) = json.loads(query["filter"][0])["predicates"]
            found = [e for e in self.experiments if e["display_name"] == wanted["stringValue"]]
            return 200, {"experiments": found, "total_size": len(found)} if found else {}
        if (method, where) == ("POST", "experiments"):
            self.experiments.append({**body, "experiment_id": f"experiment-{len(self.experiments)}"})
            return 200, self.experiments[-1]
        if (method, where) == ("POST", "runs"):
            self.runs.append(body)
            return 200, {**body, "run_id": RUN, "state": "PENDING"}
        if (method, where) == ("GET", f"runs/{RUN}"):
            state, steps = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            if state == "DOWN":
                return 503, {"error": "no pod answers"}
            tasks = [
                {"run_id": RUN, "task_id": name, "display_name": name, "state": one, "create_time": STARTED}
                for name, one in steps.items()
            ]
            return 200, {"run_id": RUN, "state": state, "created_at": STARTED, "run_details": {"task_details": tasks}}
        return 404, {"error": "no such path"}


@contextmanager
def kubeflow() -> Iterator[Kubeflow]:
    """Serve Kubeflow Pipelines' API; asks for the bearer ``token`` when one is set."""
    made = Kubeflow()

    class Handler(_Handler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
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
