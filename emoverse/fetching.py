"""Download a raw corpus from a DVC remote to where ``validate`` can read it, and refuse any other content."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import yaml

from emoverse.artifacts.digests import digest_of_files, dvc_dir_md5, raw_sums
from emoverse.compat.dvc import ObjectStore, Output, find_output, read_config, remote_settings
from emoverse.errors import DISK_FULL, UserError

Sums = tuple[dict[str, str], dict[str, str]]
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
DIR_SUFFIX: Final = ".dir"
LOCK = "dvc.lock"
# What file managers and network file systems leave in a folder.
_STRAY: Final = re.compile(r"\.DS_Store|\._.*|\.nfs[0-9a-f]{8,}|Thumbs\.db|desktop\.ini", re.IGNORECASE)
Result = TypeVar("Result")


def fetch(corpus: str, md5: str, out: Path, *, remote: str = "", root: str = "", volume: str = "") -> dict[str, Any]:
    """Make a corpus available at ``out`` and return its digests and size, for an artifact's metadata.

    Args:
        corpus: Name of the corpus.
        md5: The MD5 by which DVC identifies the folder.
        out: The folder to write, or a file that names the folder where the data stays (``raw_folder`` reads it).
        remote: Public settings of a DVC remote, as JSON, to download from. Empty: ``volume`` or ``root`` has the data.
        root: Folder that already contains the corpus.
        volume: Folder that later steps see too; the data is kept there by its MD5.

    Raises:
        UserError: The corpus is missing, or its content does not match ``md5``.
    """
    what = "base model" if corpus == "weights" else f"raw corpus {corpus!r}"
    if not md5:
        problem = f"the run names no MD5 for its {what}, so a cache could return the result of another"
        raise UserError(problem, place=corpus, remedy="submit with the md5 in its .dvc file")
    if not remote:
        folder = Path(volume) / md5 if volume else Path(root)
        if not (volume or root) or not folder.is_dir() or not any(folder.iterdir()):
            remedy = "run `dvc pull`, set its root in params.yaml, or submit with the remote that has it"
            raise UserError(f"the {what} is not here", place=str(folder), remedy=remedy)
        facts = _checked(folder, md5)
    elif volume:
        folder = Path(volume) / md5
        facts = fetch_once(md5, settings_from(remote), folder)
    else:
        try:
            return {"corpus": corpus, **_checked(out, md5, pull(md5, settings_from(remote), out))}
        except UserError:
            shutil.rmtree(out, ignore_errors=True)
            raise
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"folder": str(folder.absolute()), "dvc_md5": md5}) + "\n", "utf-8")
    return {"corpus": corpus, **facts}


def raw_folder(artifact: Path, volume: str = "") -> Path:
    """Return the folder of a raw corpus from the output of ``fetch``; raise UserError when it no longer exists.

    ``volume`` is the mounted folder in which this run keeps raw corpora, if any.
    """
    if not artifact.is_file():
        return artifact
    folder = Path(json.loads(artifact.read_text("utf-8"))["folder"])
    if not folder.is_dir():
        problem = "the raw corpus that fetch wrote here is gone, or its volume is not mounted"
        remedy = f"mount the volume at {volume or folder.parent}, or run again without the cache"
        raise UserError(problem, place=str(folder), remedy=remedy)
    return folder


def fetch_once(md5: str, config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Download a corpus into ``folder`` once; later runs only check it. Return its digests and size.

    It appears at once, by a rename; an interrupted download is continued.

    Raises:
        UserError: As `fetch` does.
    """
    folder = folder.absolute()
    if not folder.parent.is_dir():
        raise UserError("no such folder", place=str(folder.parent), remedy="make it, or mount the volume there")
    with _locked(folder):
        if folder.is_dir():
            return _checked(folder, md5)
        partial = folder.parent / f".{folder.name}.partial"
        facts = _checked(partial, md5, pull(md5, config, partial))
        partial.rename(folder)
        return facts


def pull(md5: str, config: Mapping[str, Any], folder: Path) -> Sums:
    """Copy a folder from a remote and return its files' sums, as ``raw_sums`` does.

    Files of ``folder`` with the right content are kept, others are removed.

    Raises:
        UserError: A file arrived with other content than the listing says (it is named), or the disk is full.
    """
    store = RemoteStore(config)
    listing = store.listing(md5)
    folder.mkdir(parents=True, exist_ok=True)
    present = raw_sums(folder)[1]
    for name in present.keys() - listing.keys():
        (folder / name).unlink()
    try:
        store.download(_missing(listing, present), folder)
        sums = raw_sums(folder)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        missing = _missing(listing, raw_sums(folder)[1])
        wanted, free = store.size(missing), shutil.disk_usage(folder).free
        problem = f"the disk is full: {len(missing)} files with {wanted:,} bytes are missing, {free:,} bytes are free"
        remedy = f"make {wanted:,} bytes free there and run again"
        raise UserError(problem, place=str(folder), remedy=remedy) from None
    for name in sorted(listing):
        if sums[1].get(name) != listing[name]:
            raise store.corrupt_error(listing[name], name)
    return sums


def _missing(listing: Mapping[str, str], present: Mapping[str, str]) -> dict[str, str]:
    """Return the files of a listing that are not in a folder with the content that it lists."""
    return {name: md5 for name, md5 in listing.items() if present.get(name) != md5}


def _checked(folder: Path, md5: str, sums: Sums | None = None) -> dict[str, Any]:
    """Return digests and size of a folder; raise UserError unless DVC would give it this MD5."""
    sha, md5_of = sums or raw_sums(folder)
    actual = dvc_dir_md5(md5_of)
    if actual != md5:
        remedy = "fetch the raw corpus again, or submit with its real md5"
        stray = sorted(name for name in md5_of if _STRAY.fullmatch(PurePosixPath(name).name))
        if stray and dvc_dir_md5({name: value for name, value in md5_of.items() if name not in stray}) == md5:
            remedy = f"remove {' '.join(shlex.quote(str(folder / name)) for name in stray)}, which the corpus lacks"
        raise UserError(f"its md5 is {actual}, but the run asked for {md5}", place=str(folder), remedy=remedy)
    size = sum((folder / name).stat().st_size for name in sha)
    return {"dvc_md5": md5, "digest": digest_of_files(sha), "files": len(sha), "bytes": size}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other run downloads the same corpus into the volume."""
    try:
        handle = (folder.parent / f".{folder.name}.lock").open("a", encoding="utf-8")
    except PermissionError:  # what a pod meets first on a new volume
        user, place = os.getuid(), str(folder.parent)
        remedy = f"let that user write to the volume, such as once by `chown {user} {place}`"
        raise UserError(f"user {user} may not write there", place=place, remedy=remedy) from None
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Tracked:
    """A folder under DVC: its MD5, and its remote's settings, secrets of this machine included."""

    path: str
    md5: str
    config: Mapping[str, Any]

    @property
    def remote(self) -> str:
        """Return the remote's settings without secrets, as a pipeline carries them."""
        return public_settings(self.config, place=self.path)


def resolve(path: str, *, repository: Path = Path(), revision: str = "", remote: str = "") -> Tracked:
    """Resolve a folder that DVC tracks.

    The remote is always taken as the working tree configures it, because that is where data is stored today.

    Args:
        path: The folder, relative to the repository.
        repository: Root of the DVC repository.
        revision: Git revision. Empty: the working tree.
        remote: Name of the remote. Empty: the one that the ``.dvc`` file names, else the repository's default.

    Raises:
        UserError: The path, the revision or the remote is unknown, or DVC 2 tracked the folder.
    """
    remotes = RemoteConfigs(repository)
    if not revision:
        read_stages(repository / LOCK)  # DVC reads it too, and its error has no remedy
    out = find_output(repository, path, revision)
    return Tracked(path, _md5_of(out, path), remotes.named(remote or out.remote, path))


class RemoteConfigs:
    """The remotes in a DVC repository's configuration; raises UserError when there is no repository."""

    def __init__(self, repository: Path) -> None:
        if not (repository / ".dvc").is_dir():
            remedy = "run this at the root of the repository, or name it with --repository"
            raise UserError("not a DVC repository", place=str(repository.absolute()), remedy=remedy)
        self._config = read_config(repository)

    def named(self, name: str, path: str) -> Mapping[str, Any]:
        """Return a remote's settings and secrets (no name: the default's); raise UserError when there is none."""
        name = (name or self._config["core"].get("remote", "")).lower()
        if name in self._config["remote"]:
            config = with_secrets(remote_settings(self._config, name))
            if config.get("version_aware") or config.get("worktree"):
                remedy = "push to an ordinary remote and name it with --remote"
                raise UserError(f"the remote {name!r} keeps versions of paths, not content", place=path, remedy=remedy)
            return config
        known = ", ".join(self._config["remote"]) or "none"
        problem = f"no remote {name!r}" if name else "the repository names no remote"
        raise UserError(problem, place=path, remedy=f"known: {known}; `dvc remote add --default NAME URL` adds one")


def _md5_of(out: Output, path: str) -> str:
    md5 = out.value
    if out.hash_name != "md5":
        problem, remedy = "tracked in DVC 2's form", "run `dvc cache migrate --dvc-files`, then `dvc push`"
    elif not md5.endswith(DIR_SUFFIX):
        problem, remedy = "not a folder whose content DVC has recorded", "give a folder that was added with `dvc add`"
    else:
        return md5
    raise UserError(problem, place=path, remedy=remedy)


def check_complete(tracked: Tracked, *, deep: bool = False) -> int:
    """Return the number of files of a tracked folder; raise UserError unless its remote has all of them.

    Nothing is written. ``deep`` also reads every object, and finds those whose content does not match their name.
    """
    store = RemoteStore(tracked.config)
    listing = store.listing(tracked.md5)
    missing = store.missing(listing)
    if missing:
        problem = f"{store.url} lacks {len(missing)} of its {len(listing)} files, such as {missing[0]}"
        remedy = f"run `dvc push {tracked.path}` where the corpus is complete"
        raise UserError(problem, place=tracked.path, remedy=remedy)
    if deep and (changed := store.changed(listing)):
        raise store.corrupt_error(listing[changed[0]], changed[0])
    return len(listing)


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
