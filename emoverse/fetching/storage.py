"""A DVC remote and DVC's cache: settings, secrets, objects by MD5."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import yaml

from emoverse.artifacts.lineage import dvc_files
from emoverse.compat.dvc import ObjectStore, read_config
from emoverse.errors import DISK_FULL, UserError

# Settings that say where a remote is and how to connect. All others are secrets, or paths of this machine.
PUBLIC: Final = (
    "url", "endpointurl", "region", "projectname", "use_ssl", "ssl_verify", "allow_anonymous_login", "port", "user",
    "auth", "custom_auth_header", "method", "timeout", "connect_timeout", "read_timeout", "max_sessions", "jobs",
)  # fmt: skip
# Setting -> the variable that contains it where neither DVC nor the cloud's library reads a variable.
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


def public_settings(config: Mapping[str, Any], *, place: str) -> str:
    """Return a remote's settings without its secrets, as JSON text; raise UserError when its address holds one."""
    parts = urlsplit(str(config["url"]))
    if parts.password:
        remedy = "take it out of the address: `dvc remote modify --local NAME password ...`"
        raise UserError("the remote's address contains a password", place=place, remedy=remedy)
    settings = {key: config[key] for key in PUBLIC if key in config}
    if isinstance(settings.get("ssl_verify"), str):
        del settings["ssl_verify"]  # a file of certificates on this machine; pods trust what their image trusts
    return json.dumps(settings, sort_keys=True)


def scheme_of(config: Mapping[str, Any]) -> str:
    """Return ``s3``, ``gs``, ``ssh``, ``webdavs`` and so on; empty for a local folder."""
    return urlsplit(str(config["url"])).scheme


def is_shared(config: Mapping[str, Any]) -> bool:
    """Return whether another machine can reach the remote; a folder of this one it cannot."""
    return bool(scheme_of(config))


def missing_variables(config: Mapping[str, Any], available: Collection[str]) -> list[str]:
    """Return the variables that a pod lacks to reach a remote as this machine does.

    Args:
        config: The remote's settings, with this machine's secrets.
        available: Variables that the pod gets. Where a password, a token or a key will do, any one of them is enough.
    """
    scheme = scheme_of(config)
    if scheme in ("s3", "gs"):
        return [] if config.get("allow_anonymous_login") else [n for n in variables(scheme) if n not in available]
    here = [key for key in _TAKES.get(scheme, ()) if config.get(key) or config.get(f"ask_{key}")]
    if scheme == "ssh" and not here:
        here = ["keyfile"]  # this machine's own keys or agent, which no pod has
    return [] if set(variables(scheme)) & set(available) else [VARIABLES[key] for key in here]


def variables(scheme: str) -> list[str]:
    """Return the variables that may contain a secret for remotes of this kind."""
    own = {"s3": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "gs": ["GOOGLE_APPLICATION_CREDENTIALS"]}
    return own.get(scheme) or [VARIABLES[key] for key in _TAKES.get(scheme, ())]


def settings_from(text: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Parse public settings and add the environment's secrets; raise UserError when the text is not such settings."""
    try:
        settings = json.loads(text)
        unknown = sorted(set(settings) - set(PUBLIC)) if isinstance(settings, dict) else ["not a mapping"]
    except ValueError as error:
        unknown = [str(error)]
    if unknown or not isinstance(settings.get("url"), str):
        problem = f"not the public settings of a DVC remote ({', '.join(unknown) or 'no url'})"
        raise UserError(problem, place="remote", remedy='give JSON such as {"url": "s3://bucket/path"}')
    return with_secrets(settings, environment)


def with_secrets(config: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return a remote's settings with the environment's secrets, where the settings have none."""
    keys = [key for key in _TAKES.get(scheme_of(config), ()) if VARIABLES[key] in environment]
    return {**{key: environment[VARIABLES[key]] for key in keys}, **config}


def without_secrets(message: str, config: Mapping[str, Any]) -> str:
    """Return a library's message with the secrets of ``config`` replaced by ``***``."""
    for key in (*VARIABLES, "secret_access_key", "session_token", "access_key_id"):
        if secret := config.get(key):
            message = message.replace(str(secret), "***")
    return message


Result = TypeVar("Result")
DIR_SUFFIX: Final = ".dir"


class RemoteStore:
    """An open DVC remote. Every method raises UserError when the remote does not answer or refuses.

    Args:
        config: The remote's settings as DVC knows them, secrets included.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)
        self.url = str(config["url"])
        scheme = scheme_of(config)
        if not scheme and not Path(self.url).is_dir():
            raise UserError("no such folder", place=self.url, remedy="mount it, or name another remote")
        self._objects = self._call(lambda: ObjectStore(self.config, ssh=scheme == "ssh"))

    def listing(self, md5: str) -> dict[str, str]:
        """Return the MD5 of each file of a folder; raise UserError when the list is missing or does not match."""
        if not md5.endswith(DIR_SUFFIX):
            problem = f"{md5!r} is not the MD5 of a folder"
            raise UserError(problem, place=self.url, remedy=f"give the md5 that ends in {DIR_SUFFIX}")
        content = self._call(lambda: self._objects.read(md5), missing=md5)
        if hashlib.md5(content, usedforsecurity=False).hexdigest() + DIR_SUFFIX != md5:
            raise self.corrupt_error(md5, "the list of its files")
        listing = {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(content)}
        for name in listing:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                problem = f"the folder {md5} lists {name!r}, which is outside it"
                raise UserError(problem, place=self.url, remedy="do not use this data: DVC writes no such list")
        return listing

    def missing(self, listing: Mapping[str, str]) -> list[str]:
        """Return the files of a listing whose object the remote does not have; nothing is written anywhere."""
        wanted = sorted(set(listing.values()))
        existing = self._call(lambda: self._objects.existing(wanted))
        return [name for name in sorted(listing) if listing[name] not in existing]

    def changed(self, listing: Mapping[str, str]) -> list[str]:
        """Return the files of a listing whose object has other content than its name says; reads every byte."""

        def differs(md5: str) -> bool:
            content = self._call(lambda: self._objects.read(md5), missing=md5)
            return hashlib.md5(content, usedforsecurity=False).hexdigest() != md5

        wrong = {md5 for md5 in set(listing.values()) if differs(md5)}
        return [name for name in sorted(listing) if listing[name] in wrong]

    def size(self, listing: Mapping[str, str]) -> int:
        """Return the bytes of all files of a listing."""
        return sum(self._call(lambda: self._objects.sizes(list(listing.values()))))

    def download(self, listing: Mapping[str, str], folder: Path) -> None:
        """Copy a listing's files into ``folder``.

        Raises:
            UserError: An object is missing, or the disk is full.
        """
        targets = {folder / name: listing[name] for name in sorted(listing)}
        for parent in {target.parent for target in targets}:
            parent.mkdir(parents=True, exist_ok=True)
        jobs = int(self.config["jobs"]) if self.config.get("jobs") else None
        pairs = [(md5, target) for target, md5 in targets.items()]

        def copy() -> None:
            try:
                self._objects.copy(pairs, jobs)
            except FileNotFoundError:
                if not (missing := self.missing(listing)):
                    raise
                more = f" and {len(missing) - 1} more files" if len(missing) > 1 else ""
                problem = f"does not have {missing[0]} (object {listing[missing[0]]}){more}"
                remedy = "run `dvc push` where the corpus is complete"
                raise UserError(problem, place=self.url, remedy=remedy) from None

        self._call(copy)

    def corrupt_error(self, md5: str, what: str) -> UserError:
        """Return the error for an object whose content does not match its name."""
        problem = f"{what}: the object {md5} has other content than its name says"
        remedy = f"remove files/md5/{md5[:2]}/{md5[2:]} there, then run `dvc push` where the corpus is complete"
        return UserError(problem, place=self.url, remedy=remedy)

    def _call(self, function: Callable[[], Result], missing: str = "") -> Result:
        try:
            return function()
        except UserError:
            raise
        except FileNotFoundError as error:
            problem = f"does not have {missing or 'it'} ({without_secrets(str(error), self.config)})"
            remedy = "run `dvc push` where the corpus is complete"
            raise UserError(problem, place=self.url, remedy=remedy) from None
        except MemoryError:
            raise
        # Each kind of remote raises its own library's errors (botocore, asyncssh, aiohttp, webdav4, ...).
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (*DISK_FULL, errno.EROFS, errno.EACCES):
                raise  # of this machine's disk, not of the remote
            message = without_secrets(str(error) or type(error).__name__, self.config)
            problem, names = f"no answer from the remote: {message}", variables(scheme_of(self.config))
            remedy = "check the address" + (f", and its secret: {', '.join(names)} in the environment" if names else "")
            raise UserError(problem, place=self.url, remedy=remedy) from None


LOCK = "dvc.lock"


@dataclass(frozen=True)
class CachedOutput:
    """An output that DVC tracks: its path and its MD5.

    Attributes:
        remedy: Command that makes or downloads it where the cache has none of it.
        repair: Command that does so where the cache has a part of it.
    """

    path: str
    md5: str
    remedy: str
    repair: str


def cached_outputs(base: Path) -> list[CachedOutput]:
    """Return the outputs that ``.dvc`` files and ``dvc.lock`` below ``base`` name; raise UserError for a broken one."""
    outputs = []
    for md5, path in sorted(dvc_files(base).items()):
        outputs.append(CachedOutput(path.removesuffix(".dvc"), md5, f"dvc pull {path}", f"dvc fetch {path}"))
    for name, stage in read_stages(base / LOCK).items():
        for out in stage.get("outs", []):
            commands = (f"dvc repro --pull {name}", f"dvc repro --force --single-item {name}")
            outputs.append(CachedOutput(str(out["path"]), str(out["md5"]), *commands))
    return outputs


def check_object(cache: Path, md5: str, *, deep: bool) -> str:
    """Return what is wrong with an object of the cache: nothing, ``missing``, or (``deep`` only) ``changed``."""
    path = cache / "files/md5" / md5[:2] / md5[2:]
    if not path.is_file():
        return "missing"
    if not deep:
        return ""
    with path.open("rb") as handle:
        actual = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return "" if actual == md5.removesuffix(DIR_SUFFIX) else "changed"


def cache_problems(base: Path, output: CachedOutput, *, deep: bool) -> Iterator[tuple[str, str]]:
    """Yield ``(file, problem)`` for the objects of an output; a problem with its list of files is named ``.``."""
    cache = cache_folder(base)
    if wrong := check_object(cache, output.md5, deep=True):
        yield ".", wrong
    elif output.md5.endswith(DIR_SUFFIX):
        for entry in json.loads((cache / "files/md5" / output.md5[:2] / output.md5[2:]).read_text("utf-8")):
            if wrong := check_object(cache, entry["md5"], deep=deep):
                yield f"{entry['relpath']} ({entry['md5']})", wrong


def cache_folder(base: Path) -> Path:
    """Return the folder of DVC's cache."""
    configured = read_config(base)["cache"].get("dir")
    return Path(configured) if configured else base / ".dvc/cache"


def read_stages(lock: Path) -> dict[str, Any]:
    """Return the stages of a ``dvc.lock``; raise UserError, with the remedy, for a broken one."""
    if not lock.is_file():
        return {}
    remedy = f"run `git checkout {LOCK}`, or remove it and run `dvc repro`, which takes from the cache what is there"
    text = lock.read_text("utf-8", "replace")
    if re.search(r"^(<<<<<<<|=======|>>>>>>>)", text, re.MULTILINE):
        remedy = f"run `git checkout --ours {LOCK} && git add {LOCK}`, then `dvc repro`"
        raise UserError("a merge left conflict markers in it", place=LOCK, remedy=remedy)
    try:
        tree = yaml.safe_load(lock.read_text("utf-8"))
        stages = dict(tree["stages"])
        if not all(isinstance(out["md5"], str) for stage in stages.values() for out in stage.get("outs", [])):
            raise ValueError("an md5 that is not text")
        return stages
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = str(error).splitlines()[0]
        raise UserError(f"not valid YAML ({what}), so it was cut off or edited", place=LOCK, remedy=remedy) from None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError("not what DVC writes, so it was cut off or edited", place=LOCK, remedy=remedy) from None
