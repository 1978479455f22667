"""Split a DVC remote's settings: what may travel in a pipeline's parameters, and what only the environment holds."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
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
    told = {key: config[key] for key in PUBLIC if key in config}
    if isinstance(told.get("ssl_verify"), str):
        del told["ssl_verify"]  # a file of certificates on this machine; pods trust what their image trusts
    return json.dumps(told, sort_keys=True)


def scheme_of(config: Mapping[str, Any]) -> str:
    """Return ``s3``, ``gs``, ``ssh``, ``webdavs`` and so on; empty for a local folder."""
    return urlsplit(str(config["url"])).scheme


def travels(config: Mapping[str, Any]) -> bool:
    """Tell whether another machine can reach the remote: it is no folder of this one."""
    return bool(scheme_of(config))


def lacking(config: Mapping[str, Any], given: Collection[str]) -> list[str]:
    """Name the variables a pod lacks to reach a remote as this machine does; ``config`` includes the secrets here.

    A remote that takes a password, a token or a key is content with any one of them.
    """
    scheme = scheme_of(config)
    if scheme in ("s3", "gs"):
        return [] if config.get("allow_anonymous_login") else [n for n in variables(scheme) if n not in given]
    here = [key for key in _TAKES.get(scheme, ()) if config.get(key) or config.get(f"ask_{key}")]
    if scheme == "ssh" and not here:
        here = ["keyfile"]  # this machine's own keys or agent, which no pod has
    return [] if set(variables(scheme)) & set(given) else [VARIABLES[key] for key in here]


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
    return with_secrets(found, environment)


def with_secrets(config: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return a remote's settings with the secrets that the environment holds, where the settings hold none."""
    keys = [key for key in _TAKES.get(scheme_of(config), ()) if VARIABLES[key] in environment]
    return {**{key: environment[VARIABLES[key]] for key in keys}, **config}


def without_secrets(words: str, config: Mapping[str, Any]) -> str:
    """Return a library's message with the secrets of ``config`` blanked."""
    for key in (*VARIABLES, "secret_access_key", "session_token", "access_key_id"):
        if secret := config.get(key):
            words = words.replace(str(secret), "***")
    return words
