"""A DVC repository with a small corpus, and real servers on this machine that hold its remote."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.factories.canary import TOKEN

SECRET = TOKEN
USER = "carl"


@dataclass
class Remote:
    """A remote: its settings in DVC's words, what of them is secret, and the folder its objects lie in (if any)."""

    url: str
    settings: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None


@contextlib.contextmanager
def webdav(folder: Path) -> Iterator[Remote]:
    from cheroot.wsgi import Server
    from wsgidav.wsgidav_app import WsgiDAVApp

    folder.mkdir(parents=True)
    users = {"*": {USER: {"password": SECRET}}}
    app = WsgiDAVApp({
        "provider_mapping": {"/": str(folder)},
        "simple_dc": {"user_mapping": users},
        "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
        "verbose": 0,
        "logging": {"enable": False},
    })  # fmt: skip
    server = Server(("127.0.0.1", 0), app)
    server.prepare()
    threading.Thread(target=server.serve, daemon=True).start()
    try:
        url = f"webdav://127.0.0.1:{server.bind_addr[1]}/"
        yield Remote(url, {"user": USER}, {"password": SECRET}, {"EMOVERSE_REMOTE_PASSWORD": SECRET}, folder)
    finally:
        server.stop()


@contextlib.contextmanager
def s3() -> Iterator[Remote]:
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = {"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": SECRET}
        endpoint = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys).create_bucket(Bucket="corpora")
        secrets = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": SECRET}
        variables = {key.upper(): value for key, value in keys.items()}
        yield Remote("s3://corpora/raw", {"endpointurl": endpoint, "region": "us-east-1"}, secrets, variables)
    finally:
        server.stop()


@contextlib.contextmanager
def ssh(folder: Path) -> Iterator[Remote]:
    import asyncssh

    folder.mkdir(parents=True)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    class Door(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return True

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == (USER, SECRET)

    async def listen() -> Any:
        key = asyncssh.generate_private_key("ssh-ed25519")
        files = partial(asyncssh.SFTPServer, chroot=str(folder).encode())
        return await asyncssh.listen("127.0.0.1", 0, server_factory=Door, server_host_keys=[key], sftp_factory=files)

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result(20)
    try:
        settings = {"user": USER, "port": server.get_port()}
        variables = {"EMOVERSE_REMOTE_PASSWORD": SECRET}
        yield Remote("ssh://127.0.0.1/corpora", settings, {"password": SECRET}, variables, folder / "corpora")
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


@contextlib.contextmanager
def http(folder: Path) -> Iterator[Remote]:
    """Serve a folder read-only; whoever fills it writes to the folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    folder.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Remote(f"http://127.0.0.1:{server.server_address[1]}", folder=folder)
    finally:
        server.shutdown()


def git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def repository(root: Path, corpus: dict[str, bytes]) -> Path:
    """Make a git and DVC repository that tracks ``raw/MELD`` with these files, all committed."""
    from dvc.repo import Repo

    # DVC's logger keeps the standard output it was born with, which is another test's by now.
    logging.getLogger("dvc").setLevel(logging.ERROR)
    root.mkdir(parents=True)
    git(root, "init", "-q")
    Repo.init(str(root)).close()
    write(root / "raw/MELD", corpus)
    track(root)
    return root


def track(root: Path) -> str:
    """Add ``raw/MELD`` as it is now and commit; return the commit."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        repo.add(str(root / "raw/MELD"))
    git(root, "add", "-A")
    git(root, "commit", "-qm", "the corpus")
    return git(root, "rev-parse", "HEAD")


def write(folder: Path, corpus: dict[str, bytes]) -> None:
    for name, content in corpus.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def use(root: Path, remote: Remote, *, push: bool = True) -> None:
    """Make a remote the repository's default, its secrets in config.local, and push to it."""
    from dvc.repo import Repo

    (root / ".dvc/config.local").unlink(missing_ok=True)  # another remote's secrets
    with Repo(str(root)) as repo:
        with repo.config.edit("repo") as conf:
            conf["remote"]["store"] = {"url": remote.url, **remote.settings}
            conf["core"]["remote"] = "store"
        if remote.secrets:
            with repo.config.edit("local") as conf:
                conf["remote"]["store"] = dict(remote.secrets)
    if push:
        with Repo(str(root)) as repo:
            repo.push()
