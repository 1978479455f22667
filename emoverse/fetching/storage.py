"""Read a DVC remote and its cache: settings, secrets, objects by MD5."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import yaml

from emoverse.artifacts.lineage import dvc_files
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


def public_settings(config: Mapping[str, Any], *, place: str) -> str:
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


def is_shared(config: Mapping[str, Any]) -> bool:
    """Tell whether another machine can reach the remote: it is no folder of this one."""
    return bool(scheme_of(config))


def missing_variables(config: Mapping[str, Any], given: Collection[str]) -> list[str]:
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


Result = TypeVar("Result")
DIR_SUFFIX: Final = ".dir"


class RemoteStore:
    """Hold a DVC remote open. Every method raises UserError when the remote does not answer or refuses.

    ``config`` is a remote's settings as DVC knows them, secrets included.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)
        self.url = str(config["url"])
        if not scheme_of(config) and not Path(self.url).is_dir():
            raise UserError("no such folder", place=self.url, remedy="mount it, or name another remote")
        self._objects = self._asked(self._open)

    def listing(self, md5: str) -> dict[str, str]:
        """Return a folder's files with the MD5 of each; raise UserError when it is missing or not what ``md5`` says."""
        if not md5.endswith(DIR_SUFFIX):
            raise UserError(f"{md5!r} names no folder", place=self.url, remedy=f"give the md5 that ends in {DIR_SUFFIX}")
        path = self._objects.oid_to_path(md5)
        content: bytes = self._asked(lambda: self._objects.fs.cat_file(path), missing=md5)
        if hashlib.md5(content, usedforsecurity=False).hexdigest() + DIR_SUFFIX != md5:
            raise self.corrupt(md5, "the list of its files")
        found = {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(content)}
        for name in found:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                problem = f"the folder {md5} lists {name!r}, which lies outside it"
                raise UserError(problem, place=self.url, remedy="do not use this data: DVC writes no such list")
        return found

    def missing(self, listing: Mapping[str, str]) -> list[str]:
        """Return the files of a listing whose object the remote does not hold."""
        wanted = sorted(set(listing.values()))
        there = set(self._asked(lambda: list(self._objects.oids_exist(wanted))))
        return [name for name in sorted(listing) if listing[name] not in there]

    def bring(self, listing: Mapping[str, str], folder: Path) -> None:
        """Copy a listing's files into ``folder``; raise UserError when one is missing."""
        from dvc.fs import generic, localfs

        names = sorted(listing)
        source = [self._objects.oid_to_path(listing[name]) for name in names]
        target = [str(folder / name) for name in names]
        for parent in {Path(path).parent for path in target}:
            parent.mkdir(parents=True, exist_ok=True)
        files = self._objects.fs
        jobs = int(self.config.get("jobs") or files.jobs)
        self._asked(lambda: generic.copy(files, source, localfs, target, batch_size=jobs), missing="a file")

    def corrupt(self, md5: str, what: str) -> UserError:
        """Return the error for an object whose content is not what its name says."""
        remedy = "remove that object there, then run `dvc push` where the corpus is whole"
        return UserError(
            f"{what}: the object {md5} has other content than its name says", place=self.url, remedy=remedy
        )

    def _open(self) -> Any:
        from dvc.fs import get_cloud_fs
        from dvc_data.hashfile.db import get_odb

        kind, config, path = get_cloud_fs({"remote": {"raw": self.config}}, name="raw")
        if scheme_of(self.config) == "ssh":
            from asyncssh import SSHClient

            config["client_factory"] = SSHClient  # DVC's own asks a terminal for the password, and a pod has none
        files = kind(**config)
        return get_odb(files, files.join(path, "files", "md5"), hash_name="md5")

    def _asked(self, question: Callable[[], Result], missing: str = "") -> Result:
        try:
            return question()
        except UserError:
            raise
        except FileNotFoundError as error:
            problem = f"does not hold {missing or 'it'} ({without_secrets(str(error), self.config)})"
            remedy = "run `dvc push` where the corpus is whole"
            raise UserError(problem, place=self.url, remedy=remedy) from None
        # Each kind of remote raises its own library's errors (botocore, asyncssh, aiohttp, webdav4, ...).
        except Exception as error:
            said = without_secrets(str(error) or type(error).__name__, self.config)
            raise UserError(f"the remote gives no answer: {said}", place=self.url, remedy=self._remedy()) from None

    def _remedy(self) -> str:
        names = variables(scheme_of(self.config))
        return "check the address" + (f", and its secret: {', '.join(names)} in the environment" if names else "")


LOCK = "dvc.lock"


@dataclass(frozen=True)
class CachedOutput:
    """One output that DVC tracks: its path, its MD5, and the command that makes or brings it again."""

    path: str
    md5: str
    remedy: str


def tracked(base: Path) -> list[CachedOutput]:
    """Return what the ``.dvc`` files and ``dvc.lock`` below ``base`` name; raise UserError for a broken one."""
    found = [CachedOutput(p.removesuffix(".dvc"), md5, f"dvc fetch {p}") for md5, p in sorted(dvc_files(base).items())]
    for name, stage in _stages(base / LOCK).items():
        for out in stage.get("outs", []):
            found.append(CachedOutput(str(out["path"]), str(out["md5"]), f"dvc repro --force --single-item {name}"))
    return found


def check_object(cache: Path, md5: str, *, deep: bool) -> str:
    """Return what is wrong with an object of the cache: nothing, ``missing``, or (``deep`` only) ``changed``."""
    path = cache / "files/md5" / md5[:2] / md5[2:]
    if not path.is_file():
        return "missing"
    if not deep:
        return ""
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return "" if found == md5.removesuffix(DIR_SUFFIX) else "changed"


def cache_problems(base: Path, one: CachedOutput, *, deep: bool) -> Iterator[tuple[str, str]]:
    """Yield ``(file, what is wrong)`` for an output's objects; its list of files comes first, named ``.``."""
    cache = cache_folder(base)
    if wrong := check_object(cache, one.md5, deep=True):
        yield ".", wrong
    elif one.md5.endswith(DIR_SUFFIX):
        for entry in json.loads((cache / "files/md5" / one.md5[:2] / one.md5[2:]).read_text("utf-8")):
            if wrong := check_object(cache, entry["md5"], deep=deep):
                yield f"{entry['relpath']} ({entry['md5']})", wrong


def cache_folder(base: Path) -> Path:
    """Return the folder of DVC's cache."""
    from dvc.config import Config

    configured = Config(str((base / ".dvc").absolute()))["cache"].get("dir")
    return Path(configured) if configured else base / ".dvc/cache"


def _stages(lock: Path) -> dict[str, Any]:
    if not lock.is_file():
        return {}
    remedy = f"run `git checkout {LOCK}`, or remove it and run `dvc repro`: what the cache holds is not made again"
    try:
        tree = yaml.safe_load(lock.read_text("utf-8"))
        stages = dict(tree["stages"])
        if not all(isinstance(out["md5"], str) for stage in stages.values() for out in stage.get("outs", [])):
            raise ValueError("an md5 that is no text")
        return stages
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = str(error).splitlines()[0]
        raise UserError(f"not valid YAML ({what}), so it was cut off or edited", place=LOCK, remedy=remedy) from None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError("not what DVC writes, so it was cut off or edited", place=LOCK, remedy=remedy) from None
