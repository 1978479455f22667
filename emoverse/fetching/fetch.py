"""Download a raw corpus to where ``validate`` can read it; any other content than the requested one is refused."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from emoverse.artifacts.digests import digest_of_files, dvc_dir_md5, raw_sums
from emoverse.compat.dvc import Output, find_output, read_config, remote_settings
from emoverse.errors import DISK_FULL, UserError
from emoverse.fetching.storage import (
    DIR_SUFFIX,
    LOCK,
    RemoteStore,
    public_settings,
    read_stages,
    settings_from,
    with_secrets,
)

Sums = tuple[dict[str, str], dict[str, str]]


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


# What file managers and network file systems leave in a folder.
_STRAY: Final = re.compile(r"\.DS_Store|\._.*|\.nfs[0-9a-f]{8,}|Thumbs\.db|desktop\.ini", re.IGNORECASE)


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
