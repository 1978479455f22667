"""Ask a container registry whether it holds an image, by the digest that pins it."""

from __future__ import annotations

import base64
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Final

from emoverse.errors import UserError

PINNED: Final = re.compile(r"(?P<name>[a-z0-9][\w.\-/:]*)@(?P<digest>sha256:[0-9a-f]{64})")
KINDS: Final = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in ("oci.image.index.v1", "oci.image.manifest.v1", "docker.distribution.manifest.list.v2",
                 "docker.distribution.manifest.v2")
)  # fmt: skip
TIMEOUT: Final = 10.0  # seconds


def check_pinned(image: str, option: str) -> None:
    """Raise UserError unless the image is named by its digest: a tag may be pushed again, and no cache would notice."""
    if not PINNED.fullmatch(image):
        remedy = "push it, then name it as `docker inspect --format '{{index .RepoDigests 0}}' IMAGE` prints it"
        problem = f"the image {image} is not pinned by its digest (NAME@sha256:...)"
        raise UserError(problem, place=option, remedy=f"{remedy}, there or under `images` in the cluster profile")


def check_held(image: str) -> None:
    """Raise UserError unless the image's registry answers that it holds it, asked as ``docker login`` allows."""
    registry, name = _split(image.partition("@")[0])
    digest = image.partition("@")[2]
    scheme = "http" if registry.split(":")[0] in ("localhost", "127.0.0.1") else "https"
    url = f"{scheme}://{registry}/v2/{name}/manifests/{digest}"
    login = _login(registry)
    status, headers = _ask(url, login)
    if status == 401 and "bearer" in headers.get("www-authenticate", "").lower():
        status, _ = _ask(url, {"Authorization": f"Bearer {_token(headers['www-authenticate'], login, image)}"})
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


def _login(registry: str) -> dict[str, str]:
    from docker.auth import load_config

    known = load_config().resolve_authconfig(None if registry == "registry-1.docker.io" else registry) or {}
    user, password = known.get("username", known.get("Username")), known.get("password", known.get("Password"))
    if not user:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def _token(challenge: str, login: Mapping[str, str], image: str) -> str:
    asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    url = asked.pop("realm", "") + "?" + urllib.parse.urlencode(asked)
    try:
        request = urllib.request.Request(url, headers=dict(login))
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
            found = json.loads(reply.read())
        return str(found.get("token") or found["access_token"])
    except (OSError, HTTPException, ValueError, KeyError) as error:
        remedy = "run `docker login` for its registry"
        raise UserError(f"the registry's login gives no token: {error}", place=image, remedy=remedy) from None


def _ask(url: str, headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, headers={"Accept": KINDS, **headers}, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
            return int(reply.status), {}
    except urllib.error.HTTPError as error:
        return error.code, {key.lower(): value for key, value in error.headers.items()}
    except (OSError, HTTPException) as error:
        remedy = "check its name; --unchecked image submits where only the cluster reaches the registry"
        raise UserError(f"the registry gives no answer: {str(error).strip()}", place=url, remedy=remedy) from None
