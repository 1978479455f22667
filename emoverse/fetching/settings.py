"""Split a DVC remote's settings: what may travel in a pipeline's parameters, and what only the environment holds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from emoverse.errors import UserError

# What says where a remote is and how to speak to it. All else stays: secrets, and paths of this machine.
PUBLIC: Final = (
    "url", "endpointurl", "region", "projectname", "use_ssl", "ssl_verify", "allow_anonymous_login", "port", "user",
    "auth", "custom_auth_header", "method", "timeout", "connect_timeout", "read_timeout", "max_sessions", "jobs",
)  # fmt: skip
# Setting -> the variable that holds it where DVC and the cloud's own library read no variable themselves.
VARIABLES: Final = {
    "password": "EMOVERSE_REMOTE_PASSWORD",
    "token": "EMOVERSE_REMOTE_TOKEN",
    "keyfile": "EMOVERSE_REMOTE_KEYFILE",
    "passphrase": "EMOVERSE_REMOTE_PASSPHRASE",
}
_TAKES: Final = {
    "http": ("password",), "https": ("password",), "webdav": ("password", "token"), "webdavs": ("password", "token"),
    "ssh": ("password", "keyfile", "passphrase"),
}  # fmt: skip


def public(config: Mapping[str, Any], *, place: str) -> str:
    """Return a remote's settings without its secrets, as JSON text; raise UserError when its address holds one."""
    parts = urlsplit(str(config["url"]))
    if parts.password:
        remedy = "take it out of the address: `dvc remote modify --local NAME password ...`"
        raise UserError("the remote's address holds a password", place=place, remedy=remedy)
    return json.dumps({key: config[key] for key in PUBLIC if key in config}, sort_keys=True)


def scheme_of(config: Mapping[str, Any]) -> str:
    """Return ``s3``, ``gs``, ``ssh``, ``webdavs`` and so on; empty for a local folder."""
    return urlsplit(str(config["url"])).scheme


def travels(config: Mapping[str, Any]) -> bool:
    """Tell whether another machine can reach the remote: it is no folder of this one."""
    return bool(scheme_of(config))


def wanted(config: Mapping[str, Any]) -> list[str]:
    """Name the variables a pod needs to reach a remote as this machine does; ``config`` includes the secrets here."""
    scheme = scheme_of(config)
    if scheme in ("s3", "gs"):
        return [] if config.get("allow_anonymous_login") else variables(scheme)
    here = [key for key in _TAKES.get(scheme, ()) if config.get(key) or config.get(f"ask_{key}")]
    return [VARIABLES[key] for key in here]


def variables(scheme: str) -> list[str]:
    """Name the variables that may hold a secret for remotes of this kind."""
    own = {"s3": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "gs": ["GOOGLE_APPLICATION_CREDENTIALS"]}
    return own.get(scheme) or [VARIABLES[key] for key in _TAKES.get(scheme, ())]


def complete(text: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return public settings with the secrets that the environment holds; raise UserError when they are no settings."""
    try:
        found = json.loads(text)
        strange = sorted(set(found) - set(PUBLIC)) if isinstance(found, dict) else ["no mapping"]
    except ValueError as error:
        strange = [str(error)]
    if strange or not isinstance(found.get("url"), str):
        problem = f"not the public settings of a DVC remote ({', '.join(strange) or 'no url'})"
        raise UserError(problem, place="remote", remedy='give JSON such as {"url": "s3://bucket/path"}')
    secret = {
        key: environment[VARIABLES[key]] for key in _TAKES.get(scheme_of(found), ()) if VARIABLES[key] in environment
    }
    return {**found, **secret}


def without_secrets(words: str, config: Mapping[str, Any]) -> str:
    """Return a library's message with the secrets of ``config`` blanked."""
    for key in (*VARIABLES, "secret_access_key", "session_token", "access_key_id"):
        if secret := config.get(key):
            words = words.replace(str(secret), "***")
    return words
