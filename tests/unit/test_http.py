"""The HTTP client: credentials, redirects, certificates, proxies, retries; each against a real server."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emoverse.errors import UserError
from emoverse.http import CA_VARIABLES, HttpClient, NoAnswerError, RedirectError, bearer, json_object, token_from
from tests.factories.http_server import Reply, Server, serving

SECRET = "SECRET-TOKEN"


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a PEM file with a certificate that no authority signed, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out crt.pem -days 2 -subj /CN=localhost -addext"
    command = ["openssl", *words.split(), "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    path = folder / "both.pem"
    path.write_bytes((folder / "crt.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return path


@pytest.fixture(autouse=True)
def no_network_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in CA_VARIABLES or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def ok(_: int) -> Reply:
    return 200, {}, b"{}"


def elsewhere(url: str, status: int) -> Callable[[int], Reply]:
    return lambda _: (status, {"Location": url}, b"")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_credentials_never_follow_a_redirect_to_another_host_or_port(serve: Serve, status: int, method: str) -> None:
    other = serve(ok)
    for target in (other.url, other.url.replace("127.0.0.1", "localhost")):
        first = serve(elsewhere(target + "/there", status))
        with pytest.raises(RedirectError, match=f"redirects to .*{other.port}/there"):
            HttpClient(authorization=bearer(SECRET)).request(method, first.url, body={} if method == "POST" else None)
        assert first.seen == [(method, "/", f"Bearer {SECRET}")]
    assert other.seen == []


def test_a_client_that_follows_sends_no_credentials_there_and_repeats_no_post(serve: Serve) -> None:
    other = serve(ok)
    first = serve(elsewhere(other.url, 307))
    client = HttpClient(authorization="Basic bWU6aHVudGVyMg==", follow=True)
    assert client.request("HEAD", first.url).status == 200
    with pytest.raises(RedirectError):
        client.request("POST", first.url, body={})
    assert other.seen == [("HEAD", "/", None)]


def test_a_redirect_to_another_scheme_is_named_and_not_followed(serve: Serve, certificate: Path) -> None:
    secure = serve(ok, certificate)
    first = serve(elsewhere(secure.url, 301))
    with pytest.raises(RedirectError, match=r"redirects to another server, https://127\.0\.0\.1"):
        HttpClient(authorization=bearer(SECRET)).request("GET", first.url)


def test_a_redirect_on_the_same_server_keeps_the_credentials(serve: Serve) -> None:
    first = serve(lambda n: (302, {"Location": "/new"}, b"") if n == 1 else ok(n))
    assert HttpClient(authorization=bearer(SECRET)).request("GET", first.url + "/old").status == 200
    assert first.seen[1] == ("GET", "/new", f"Bearer {SECRET}")
    circle = serve(elsewhere("/", 302))
    with pytest.raises(RedirectError, match="in a circle"):
        HttpClient().request("GET", circle.url)


def test_netrc_does_not_replace_a_token(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hunter2\n", "utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    server = serve(ok)
    HttpClient(authorization=bearer(SECRET)).request("GET", server.url)
    HttpClient().request("GET", server.url)
    assert [authorization for _, _, authorization in server.seen] == [f"Bearer {SECRET}", None]


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_private_authority_is_trusted_wherever_it_is_named(
    serve: Serve, certificate: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(ok, certificate)
    with pytest.raises(NoAnswerError, match=r"certificate is not trusted.*SSL_CERT_FILE"):
        HttpClient(retries=0).request("GET", server.url)
    monkeypatch.setenv(variable, str(certificate))
    assert HttpClient().request("GET", server.url).status == 200


def test_a_file_of_certificates_that_is_not_there_or_not_one_is_named_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "note.txt").write_text("not a certificate", "utf-8")
    for path in (tmp_path / "gone.pem", tmp_path / "note.txt"):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
        with pytest.raises(UserError, match=f"REQUESTS_CA_BUNDLE: cannot read certificates from {path}"):
            HttpClient().request("GET", "https://127.0.0.1:9")


def test_a_proxy_is_used_unless_no_proxy_lists_the_host(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, server = serve(ok), serve(ok)
    monkeypatch.setenv("http_proxy", proxy.url.replace("://", "://me:hunter2@"))
    assert HttpClient().request("GET", "http://kubeflow.example.internal/x").status == 200
    assert proxy.seen[0][1] == "http://kubeflow.example.internal/x"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert HttpClient().request("GET", server.url).status == 200
    assert len(server.seen) == 1


def test_a_proxy_that_does_not_answer_is_blamed_and_its_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter2@127.0.0.1:9")
    with pytest.raises(NoAnswerError, match=r"the proxy http://127\.0\.0\.1:9 .*check HTTPS_PROXY, or list k\.example"):
        HttpClient(retries=0).request("GET", "https://k.example/")
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setenv("all_proxy", "socks5://me:hunter2@127.0.0.1:9")
    with pytest.raises(UserError, match=r"all_proxy: socks5://127\.0\.0\.1:9 is not an HTTP proxy.*no_proxy"):
        HttpClient().request("GET", "http://k.example/")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_and_its_last_answer_returned(serve: Serve, status: int) -> None:
    server = serve(lambda n: (status, {"Retry-After": "0"}, b"busy") if n < 3 else ok(n))
    assert HttpClient(retries=2).request("GET", server.url).status == 200
    always = serve(lambda n: (status, {}, b"busy"))
    assert HttpClient(retries=1).request("GET", always.url).status == status
    assert len(always.seen) == 2


@given(
    value=st.one_of(
        st.text(st.characters(min_codepoint=32, max_codepoint=126)), st.floats().map(str), st.just("9" * 400)
    )
)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_retry_after_is_waited_for_longer_than_the_cap(value: str) -> None:
    from emoverse.http import LONGEST_WAIT

    policy = HttpClient().retry_policy
    assert 0 <= policy.parse_retry_after(value) <= LONGEST_WAIT


def test_a_post_is_sent_twice_only_where_it_may_be(serve: Serve) -> None:
    server = serve(lambda n: (503, {}, b"") if n == 1 else ok(n))
    assert HttpClient().request("POST", server.url, body={}).status == 503
    server = serve(lambda n: (503, {}, b"") if n == 1 else ok(n))
    assert HttpClient(repeat_post=True).request("POST", server.url, body={}).status == 200


def test_an_answer_that_is_cut_off_is_no_answer(serve: Serve) -> None:
    server = serve(lambda n: (200, {"Content-Length": "99"}, b"{}"))
    with pytest.raises(NoAnswerError):
        HttpClient(retries=0, timeout=0.3).request("GET", server.url)


def test_a_silent_server_times_out(serve: Serve) -> None:
    server = serve(lambda n: (time.sleep(2), ok(n))[1])
    with pytest.raises(NoAnswerError, match="timed out"):
        HttpClient(retries=0, timeout=0.2).request("GET", server.url)


@pytest.mark.parametrize(
    ("value", "token"), [("abc\n", "abc"), (" abc\t", "abc"), ("", ""), ("  ", ""), ("a.b-c_d~+/==", "a.b-c_d~+/==")]
)
def test_a_token_is_stripped(value: str, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", value)
    assert token_from("SOME_TOKEN") == token


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@settings(max_examples=200, deadline=None)
def test_a_token_that_no_header_can_carry_is_an_error_that_does_not_show_it(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_TOKEN", f"canary{text}canary")
        if re.fullmatch("[!-~]*", text):
            assert token_from("SOME_TOKEN") == f"canary{text}canary"
            return
        with pytest.raises(UserError, match="SOME_TOKEN: not a token: it contains") as caught:
            token_from("SOME_TOKEN")
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize("url", ["kubeflow", "ftp://x", "http://", "http://a:b:c", "http://x:99999", "http://a b", ""])
def test_what_is_not_an_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="not an http"):
        HttpClient().request("GET", url)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(UserError, match=r"http://host/x: the address contains a user name or password") as caught:
        HttpClient().request("GET", "http://me:hunter2@host/x?key=hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "body", [b"<html>login</html>", b"[1]", b"", b"\xff", b"[" * 100_000, json.dumps("x").encode()]
)
def test_only_a_json_object_is_one(serve: Serve, body: bytes) -> None:
    assert json_object(HttpClient().request("GET", serve(lambda n: (200, {}, body)).url)) is None
