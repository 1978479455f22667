"""Send HTTP requests under one rule for credentials, redirects, certificates, proxies and retries.

Built on urllib3 and not on requests: requests lets ``~/.netrc`` replace a token, sends a password on from http to
https, and does not repeat a request whose answer was cut off.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError, ProxyError

from emoverse.errors import UserError

CA_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
RETRIED: Final = (408, 409, 429, 500, 502, 503, 504)
LONGEST_WAIT: Final = 120  # seconds between two attempts, whatever Retry-After asks for
_REDIRECTS: Final = 5


class NoAnswerError(UserError):
    """A server that gives no answer now, and may give one later."""


class RedirectError(UserError):
    """A redirect that is not followed, because it leads to another server."""


def token_from(variable: str) -> str:
    """Return the token in an environment variable without the white space around it; empty where there is none.

    Raises:
        UserError: No HTTP header could carry the token; the message does not show it.
    """
    token = os.environ.get(variable, "").strip()
    if wrong := re.search(r"[^!-~]", token):
        kind = {" ": "a space", "\n": "a line break", "\r": "a line break"}.get(wrong[0], f"U+{ord(wrong[0]):04X}")
        remedy = "put the token alone into it: one line, without `Bearer`"
        raise UserError(f"not a token: it contains {kind}", place=variable, remedy=remedy)
    return token


def bearer(token: str) -> str:
    """Return the Authorization header for a token; empty for no token."""
    return f"Bearer {token}" if token else ""


def json_object(reply: urllib3.BaseHTTPResponse) -> dict[str, Any] | None:
    """Return the JSON object that an answer consists of; None for anything else, such as a login page."""
    try:
        content = json.loads(reply.data)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


class HttpClient:
    """Send requests; keep connections open between them.

    Args:
        authorization: Value of the Authorization header. It is sent to the origin (scheme, host, port) of each
            request's address, and to no other that a redirect names.
        timeout: Seconds to wait for the connection, and again for data.
        retries: Attempts after the first one, when a connection fails or the status is one of ``RETRIED``.
        repeat_post: Whether a POST whose answer failed may be sent again. A POST that never reached the server always
            is.
        follow: Whether a GET or HEAD follows a redirect to another origin, without the credentials; otherwise it is a
            RedirectError, and for other methods it always is.
    """

    def __init__(
        self,
        *,
        authorization: str = "",
        timeout: float = 10.0,
        retries: int = 2,
        repeat_post: bool = False,
        follow: bool = False,
    ) -> None:
        self._authorization, self._follow = authorization, follow
        self._timeout = urllib3.Timeout(connect=min(10.0, timeout), read=timeout)
        self.retry_policy = _Retry(
            retries,
            allowed_methods=None if repeat_post else _Retry.DEFAULT_ALLOWED_METHODS,
            status_forcelist=RETRIED,
            backoff_factor=0.5,
            backoff_max=LONGEST_WAIT,
            retry_after_max=LONGEST_WAIT,
            raise_on_status=False,
        )
        self._pools: dict[str, urllib3.PoolManager] = {}

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> urllib3.BaseHTTPResponse:
        """Send a request and return the answer, whatever its status is.

        Args:
            method: ``GET``, ``POST`` and so on.
            url: The address.
            headers: Headers besides those of the client.
            body: Sent as JSON; bytes are sent as they are.

        Raises:
            NoAnswerError: The server, the proxy or the name cannot be reached, or the answer was cut off.
            RedirectError: The answer leads to another server.
            UserError: The address, a proxy or a file of certificates is not usable.
        """
        sent = {"Accept": "application/json", **(headers or {})}
        if self._authorization:
            sent["Authorization"] = self._authorization
        data = None
        if isinstance(body, bytes):
            data = body
        elif body is not None:
            data = json.dumps(body).encode("utf-8")
            sent["Content-Type"] = "application/json"
        first = check_address(url)
        for _ in range(_REDIRECTS + 1):
            reply = self._send(method, url, sent, data)
            location = reply.get_redirect_location()
            if not location:
                return reply
            target = urljoin(url, location)
            if _origin(target) != _origin(url):
                if not (self._follow and method in ("GET", "HEAD") and target.startswith(("http://", "https://"))):
                    remedy = "if that is the server you mean, give its address"
                    raise RedirectError(f"redirects to another server, {_shown(target)}", place=first, remedy=remedy)
                sent.pop("Authorization", None)
            elif method not in ("GET", "HEAD") and reply.status not in (307, 308):
                raise RedirectError(f"redirects to {_shown(target)}", place=first, remedy="give that address")
            url = check_address(target)
        raise RedirectError("redirects in a circle", place=first, remedy="check the address")

    def _send(self, method: str, url: str, headers: dict[str, str], data: bytes | None) -> urllib3.BaseHTTPResponse:
        proxy = proxy_for(url)
        try:
            return self._pool(url, proxy).request(
                method,
                url,
                body=data,
                headers=headers,
                redirect=False,
                retries=self.retry_policy,
                timeout=self._timeout,
            )
        except (HTTPError, OSError) as error:
            raise _no_answer(error, url, proxy) from None

    def _pool(self, url: str, proxy: str) -> urllib3.PoolManager:
        secure = url.startswith("https://") or proxy.startswith("https://")
        key = f"{secure} {proxy}"
        if key not in self._pools:
            context = ssl_context() if secure else None
            if proxy:
                parts = urlsplit(proxy)
                login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
                self._pools[key] = urllib3.ProxyManager(
                    proxy,
                    proxy_headers=urllib3.make_headers(proxy_basic_auth=login),
                    ssl_context=context,
                    proxy_ssl_context=context,
                )
            else:
                self._pools[key] = urllib3.PoolManager(ssl_context=context)
        return self._pools[key]


class _Retry(urllib3.Retry):
    """Wait before the first repetition too, and tolerate a malformed Retry-After."""

    def get_backoff_time(self) -> float:
        return float(min(self.backoff_max, self.backoff_factor * 2 ** max(0, len(self.history) - 1)))

    def parse_retry_after(self, retry_after: str) -> float:
        if re.fullmatch(r"\s*\d{1,9}\.\d{1,9}\s*", retry_after):
            return min(float(retry_after), self.retry_after_max)
        try:
            return super().parse_retry_after(retry_after)
        except (InvalidHeader, ValueError, OverflowError):
            return 0.0  # the usual back-off


def check_address(url: str) -> str:
    """Return an address; raise UserError unless it is http(s), whole, and without a user name and password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or re.search(r"[\x00-\x20\x7f]", url):
        remedy = "for example http://localhost:8080"
        raise UserError("not an http(s) address", place=_shown(url), remedy=remedy)
    if parts.username is not None:
        remedy = "take them out of the address; a token goes into an environment variable"
        raise UserError("the address contains a user name or password", place=_shown(url), remedy=remedy)
    return url


def ssl_context() -> ssl.SSLContext:
    """Return what TLS servers are checked with: the system's authorities and those that a variable names.

    Every variable of ``CA_VARIABLES`` counts, because libraries differ in the one that they read.

    Raises:
        UserError: There is no certificate where a variable points; the variable is named.
    """
    context = ssl.create_default_context()
    named = [(name, path) for name in CA_VARIABLES if (path := os.environ.get(name))]
    for name, path in named:
        try:
            folder = Path(path).is_dir()
            context.load_verify_locations(capath=path if folder else None, cafile=None if folder else path)
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or str(error)
            remedy = "name a file of certificates in PEM form, or unset it"
            raise UserError(f"cannot read certificates from {path}: {what}", place=name, remedy=remedy) from None
    if not named:
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def proxy_for(url: str) -> str:
    """Return the address of the proxy that the environment names for an address; empty for none.

    ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy`` count as they do for requests and pip.

    Raises:
        UserError: The proxy is not an HTTP one.
    """
    from requests.utils import get_environ_proxies, select_proxy

    proxy = str(select_proxy(url, get_environ_proxies(url)) or "")
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    if proxy and not proxy.startswith(("http://", "https://")):
        host = urlsplit(url).hostname
        remedy = f"name an HTTP proxy, or list {host} in no_proxy"
        raise UserError(f"{_shown(proxy)} is not an HTTP proxy", place=_proxy_variable(url), remedy=remedy)
    return proxy


def _proxy_variable(url: str) -> str:
    names = (f"{urlsplit(url).scheme}_proxy", "all_proxy")
    return next((n for name in names for n in (name, name.upper()) if os.environ.get(n)), names[0])


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, parts.hostname or "", port or {"http": 80, "https": 443}.get(parts.scheme, 0)


def _shown(url: str) -> str:
    """Return an address without its user name, password and query, and without control characters."""
    text = re.sub(r"(?<=//)[^/@]*@", "", url).partition("?")[0]
    return text.encode("unicode_escape").decode("ascii")[:300]


def _no_answer(error: Exception, url: str, proxy: str) -> NoAnswerError:
    """Return what went wrong in one line, in place of urllib3's nested texts."""
    inner = _innermost(error)
    remedy = "check the address"
    if isinstance(inner, ssl.SSLCertVerificationError):
        problem = f"its certificate is not trusted: {inner.verify_message}"
        remedy = "name the certificate of its authority (a PEM file) in SSL_CERT_FILE"
    elif isinstance(inner, ssl.SSLError):
        problem = f"TLS failed: {inner.reason or inner}"
    elif isinstance(inner, TimeoutError) or "timed out" in str(inner):
        problem = "timed out"
    elif isinstance(inner, OSError) and inner.strerror:
        problem = inner.strerror.lower()
    else:
        problem = str(inner) or type(inner).__name__
    if isinstance(error, MaxRetryError) and isinstance(error.reason, ProxyError):
        variable, host = _proxy_variable(url), urlsplit(url).hostname
        problem = f"the proxy {_shown(proxy)} does not connect: {problem}"
        remedy = f"check {variable}, or list {host} in no_proxy"
    return NoAnswerError(problem, place=_shown(url), remedy=remedy)


def _innermost(error: BaseException) -> BaseException:
    reasons = (getattr(error, "reason", None), getattr(error, "original_error", None), error.__cause__, *error.args)
    inner = next((reason for reason in reasons if isinstance(reason, BaseException)), None)
    return _innermost(inner) if inner is not None else error
