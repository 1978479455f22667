"""Ask a container registry whether it holds an image, by the digest that pins it."""

from __future__ import annotations

import base64
import re
from typing import Final
from urllib.parse import urlencode, urlsplit

from emoverse.errors import UserError
from emoverse.http import HttpClient, NoAnswerError, bearer, json_object

PINNED: Final = re.compile(r"(?P<name>[a-z0-9][\w.\-/:]*)@(?P<digest>sha256:[0-9a-f]{64})")
KINDS: Final = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in ("oci.image.index.v1", "oci.image.manifest.v1", "docker.distribution.manifest.list.v2",
                 "docker.distribution.manifest.v2")
)  # fmt: skip


def check_pinned(image: str, option: str) -> None:
    """Raise UserError unless the image is named by its digest: a tag may be pushed again, and no cache would notice."""
    if not PINNED.fullmatch(image):
        remedy = "push it, then name it as `docker inspect --format '{{index .RepoDigests 0}}' IMAGE` prints it"
        problem = f"the image {image} is not pinned by its digest (NAME@sha256:...)"
        raise UserError(problem, place=option, remedy=f"{remedy}, there or under `images` in the cluster profile")


def check_held(image: str) -> None:
    """Raise UserError unless the image's registry answers that it holds it; ``docker login``'s password is used."""
    registry, name = _split(image.partition("@")[0])
    digest = image.partition("@")[2]
    scheme = "http" if registry.split(":")[0] in ("localhost", "127.0.0.1") else "https"
    url = f"{scheme}://{registry}/v2/{name}/manifests/{digest}"
    login = _login(registry)
    try:
        reply = HttpClient(authorization=login, follow=True).request("HEAD", url, headers={"Accept": KINDS})
        challenge = reply.headers.get("WWW-Authenticate", "")
        if reply.status == 401 and "bearer" in challenge.lower():
            token = bearer(_token(challenge, login, url, image))
            reply = HttpClient(authorization=token, follow=True).request("HEAD", url, headers={"Accept": KINDS})
    except NoAnswerError as error:
        remedy = "check its name; --unchecked image submits where only the cluster reaches the registry"
        raise UserError(f"the registry gives no answer: {error.problem}", place=error.place, remedy=remedy) from None
    status = reply.status
    if status == 404:
        raise UserError("the registry does not hold it", place=image, remedy="push it with `docker push`")
    if status in (401, 403):
        raise UserError("the registry does not let you see it", place=image, remedy=f"run `docker login {registry}`")
    if status != 200:
        raise UserError(f"the registry answers with HTTP {status}", place=image, remedy="try again later")


def _split(name: str) -> tuple[str, str]:
    """Return the registry's address and the repository in it; a name without one is Docker Hub's."""
    first, slash, rest = name.partition("/")
    if not slash or not (set(first) & set(".:") or first == "localhost"):
        first, rest = "registry-1.docker.io", name if slash else f"library/{name}"
    if first in ("docker.io", "index.docker.io"):
        first, rest = "registry-1.docker.io", rest if "/" in rest else f"library/{rest}"
    path, _, last = rest.rpartition("/")
    return first, "/".join(part for part in (path, last.partition(":")[0]) if part)


def _login(registry: str) -> str:
    """Return the Authorization header for what ``docker login`` stored; empty for nothing."""
    from docker.auth import load_config
    from docker.errors import DockerException

    try:
        known = load_config().resolve_authconfig(None if registry == "registry-1.docker.io" else registry) or {}
    except DockerException as error:
        remedy = "install the credential helper that docker's config.json names, or run `docker login` again"
        raise UserError(f"docker's credentials cannot be read: {error}", place=registry, remedy=remedy) from None
    user, password = known.get("username", known.get("Username")), known.get("password", known.get("Password"))
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode() if user else ""


def _token(challenge: str, login: str, url: str, image: str) -> str:
    """Get a bearer token where the registry's challenge says; the password goes to that place over TLS only."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = fields.pop("realm", "")
    here, there = urlsplit(url), urlsplit(realm)
    if login and there.scheme != "https" and (here.scheme, here.netloc) != (there.scheme, there.netloc):
        problem = "the registry asks for your password at an address without TLS, and was not given it"
        raise UserError(problem, place=image, remedy="ask who runs the registry to correct its login address")
    reply = HttpClient(authorization=login).request("GET", f"{realm}?{urlencode(fields)}")
    answer = json_object(reply) or {}
    token = answer.get("token") or answer.get("access_token")
    if reply.status != 200 or not isinstance(token, str):
        remedy = "run `docker login` for its registry"
        raise UserError(f"the registry's login gives no token: HTTP {reply.status}", place=image, remedy=remedy)
    return token
