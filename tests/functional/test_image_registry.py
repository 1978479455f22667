"""The registry's check: docker's password goes to the registry and to its login service, and nowhere else."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emoverse.errors import UserError
from pipelines.checks import check_held
from tests.factories.http_server import Server, serving

PASSWORD = base64.b64encode(b"me:hunter2").decode()
Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


@pytest.fixture
def log_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Store a password for a registry as ``docker login`` does."""

    def _log_in(registry: str) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry: {"auth": PASSWORD}}}), "utf-8")
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    return _log_in


def image_in(server: Server) -> str:
    return f"127.0.0.1:{server.port}/team/x@sha256:{'5' * 64}"


def challenge(realm: str) -> Callable[[int], tuple[int, dict[str, str], bytes]]:
    return lambda _: (401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}, b"")


def test_a_redirect_to_the_store_gets_no_password(serve: Serve, log_in: Callable[[str], None]) -> None:
    store = serve(lambda _: (200, {}, b""))
    registry = serve(lambda _: (307, {"Location": f"http://localhost:{store.port}/blob"}, b""))
    log_in(f"127.0.0.1:{registry.port}")
    check_held(image_in(registry))
    assert registry.seen[0][2] == f"Basic {PASSWORD}"
    assert [(method, authorization) for method, _, authorization in store.seen] == [("HEAD", None)]


def test_a_login_service_elsewhere_without_tls_gets_no_password(serve: Serve, log_in: Callable[[str], None]) -> None:
    thief = serve(lambda _: (200, {}, b'{"token": "t"}'))
    registry = serve(challenge(f"http://localhost:{thief.port}/token"))
    log_in(f"127.0.0.1:{registry.port}")
    with pytest.raises(UserError, match="asks for your password at an address without TLS"):
        check_held(image_in(registry))
    assert thief.seen == []


@pytest.mark.parametrize("answer", [b"<html>", b"{}", b'{"token": 7}', b"[]"])
def test_a_login_service_that_gives_no_token_is_an_error(serve: Serve, answer: bytes) -> None:
    login = serve(lambda _: (200, {}, answer))
    registry = serve(challenge(f"{login.url}/token"))
    with pytest.raises(UserError, match="login gives no token"):
        check_held(image_in(registry))


def test_a_credential_helper_that_is_missing_is_named(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = serve(lambda _: (200, {}, b""))
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "no-such-helper"}), "utf-8")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(UserError, match="credential"):
        check_held(image_in(registry))
