"""Bring one raw corpus to where ``validate`` can read it, and refuse any content but the one that was asked for."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoverse.artifacts.digests import digest_of_files, dvc_dir_md5, raw_sums
from emoverse.errors import UserError
from emoverse.fetching.storage import DIR_SUFFIX, RemoteStore, complete, public_settings, with_secrets

Sums = tuple[dict[str, str], dict[str, str]]


def fetch(corpus: str, md5: str, out: Path, *, remote: str = "", root: str = "", volume: str = "") -> dict[str, Any]:
    """Put the corpus that DVC knows as ``md5`` at ``out`` and return what is known of it, for an artifact's metadata.

    ``remote`` (public settings of a DVC remote, as JSON): pull it from there, into ``volume`` when one is given, a
    folder that later steps see too, else into ``out`` itself. No remote: the volume, or ``root``, already holds it.
    Where the data stays elsewhere, ``out`` is a file that says where (``raw_folder`` reads it). Raises UserError when
    the corpus is missing or is not what ``md5`` says.
    """
    if not md5:
        problem = "the run names no MD5 for its raw corpus, so a cache could serve the result of another"
        raise UserError(problem, place=corpus, remedy="submit with the md5 that the corpus's .dvc file holds")
    if not remote:
        folder = Path(volume) / md5 if volume else Path(root)
        if not (volume or root) or not folder.is_dir() or not any(folder.iterdir()):
            remedy = "run `dvc pull`, set its root in params.yaml, or submit with the remote that holds it"
            raise UserError(f"the raw corpus {corpus!r} is not here", place=str(folder), remedy=remedy)
        facts = _checked(folder, md5)
    elif volume:
        folder = Path(volume) / md5
        facts = fetch_once(md5, complete(remote), folder)
    else:
        try:
            return {"corpus": corpus, **_checked(out, md5, pull(md5, complete(remote), out))}
        except UserError:
            shutil.rmtree(out, ignore_errors=True)
            raise
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"folder": str(folder.absolute()), "dvc_md5": md5}) + "\n", "utf-8")
    return {"corpus": corpus, **facts}


def raw_folder(artifact: Path, volume: str = "") -> Path:
    """Return the folder of a raw corpus from what ``fetch`` left; raise UserError when it has gone since.

    ``volume`` is the mounted folder that this run keeps raw corpora in, if any.
    """
    if not artifact.is_file():
        return artifact
    folder = Path(json.loads(artifact.read_text("utf-8"))["folder"])
    if not folder.is_dir():
        problem = "the raw corpus that fetch put here is gone, or its volume is not mounted"
        remedy = f"mount the volume at {volume or folder.parent}, or run again without the cache"
        raise UserError(problem, place=str(folder), remedy=remedy)
    return folder


def fetch_once(md5: str, config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Pull a corpus into ``folder`` once, where later runs find and check it; return what is known of it.

    It appears at once, by a rename; a pull that is cut off goes on where it was. Raises UserError as ``fetch`` does.
    """
    folder = folder.absolute()
    if not folder.parent.is_dir():
        raise UserError("no such folder", place=str(folder.parent), remedy="make it, or mount the volume there")
    with _alone(folder):
        if folder.is_dir():
            return _checked(folder, md5)
        partial = folder.parent / f".{folder.name}.partial"
        facts = _checked(partial, md5, pull(md5, config, partial))
        partial.rename(folder)
        return facts


def pull(md5: str, config: Mapping[str, Any], folder: Path) -> Sums:
    """Copy the folder that DVC knows as ``md5`` from a remote and return its files' sums, as ``raw_sums`` does.

    ``folder`` holds nothing else: files that are there and right are kept, others removed. Raises UserError naming the
    file when one came with other content than the listing says.
    """
    store = RemoteStore(config)
    listing = store.listing(md5)
    folder.mkdir(parents=True, exist_ok=True)
    here = raw_sums(folder)[1]
    for name in here.keys() - listing.keys():
        (folder / name).unlink()
    store.bring({name: one for name, one in listing.items() if here.get(name) != one}, folder)
    sums = raw_sums(folder)
    for name in sorted(listing):
        if sums[1].get(name) != listing[name]:
            raise store.corrupt(listing[name], name)
    return sums


def _checked(folder: Path, md5: str, sums: Sums | None = None) -> dict[str, Any]:
    sha, md5_of = sums or raw_sums(folder)
    found = dvc_dir_md5(md5_of)
    if found != md5:
        remedy = "fetch the raw corpus again, or submit with its real md5"
        raise UserError(f"its md5 is {found}, but the run asked for {md5}", place=str(folder), remedy=remedy)
    size = sum((folder / name).stat().st_size for name in sha)
    return {"dvc_md5": md5, "digest": digest_of_files(sha), "files": len(sha), "bytes": size}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other run pulls the same corpus into the volume."""
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
    """Resolve a folder that DVC tracks, at a git revision (empty: the working tree).

    The remote is ``remote``, else the one the ``.dvc`` file names, else the repository's default: always as the working
    tree configures it, for that is where data lies today. Raises UserError when the path, the revision or the remote is
    unknown, or when DVC 2 tracked it.
    """
    from dvc.exceptions import DvcException, OutputNotFoundError
    from dvc.repo import Repo
    from dvc.scm import RevError
    from scmrepo.exceptions import SCMError

    remotes = RemoteConfigs(repository)
    try:
        with Repo(str(repository), rev=revision or None) as then:
            (out,) = then.find_outs_by_path(str(Path(then.root_dir, path)))
    except OutputNotFoundError:
        remedy = "run `dvc add` and commit the .dvc file, or give a folder that one names"
        at = f" at {revision}" if revision else ""
        raise UserError(f"no .dvc file names it{at}", place=path, remedy=remedy) from None
    except (RevError, SCMError) as error:
        remedy = "name a commit, tag or branch"
        raise UserError(f"git does not know it: {error}", place=revision or str(repository), remedy=remedy) from None
    except DvcException as error:
        raise UserError(f"DVC cannot read it: {error}", place=path, remedy="restore it with `git checkout`") from None
    return Tracked(path, _md5_of(out, path), remotes.named(remote or out.remote or "", path))


class RemoteConfigs:
    """Know the remotes that a DVC repository's configuration names; raise UserError when there is no repository."""

    def __init__(self, repository: Path) -> None:
        from dvc.config import Config

        if not (repository / ".dvc").is_dir():
            remedy = "run this at the root of the repository, or name it with --repository"
            raise UserError("not a DVC repository", place=str(repository.absolute()), remedy=remedy)
        self._config = Config(str((repository / ".dvc").absolute()))

    def named(self, name: str, path: str) -> Mapping[str, Any]:
        """Return a remote's settings and secrets (no name: the default's); raise UserError about ``path`` without."""
        from dvc.fs import get_fs_config

        name = (name or self._config["core"].get("remote", "")).lower()
        if name in self._config["remote"]:
            config = with_secrets(get_fs_config(self._config, name=name))
            if config.get("version_aware") or config.get("worktree"):
                remedy = "push to an ordinary remote and name it with --remote"
                raise UserError(f"the remote {name!r} keeps versions of paths, not content", place=path, remedy=remedy)
            return config
        known = ", ".join(self._config["remote"]) or "none"
        problem = f"no remote {name!r}" if name else "the repository names no remote"
        raise UserError(problem, place=path, remedy=f"known: {known}; `dvc remote add --default NAME URL` adds one")


def _md5_of(out: Any, path: str) -> str:
    md5 = str(out.hash_info.value or "")
    if out.hash_name != "md5":
        problem, remedy = "tracked in DVC 2's form", "run `dvc cache migrate --dvc-files`, then `dvc push`"
    elif not md5.endswith(DIR_SUFFIX):
        problem, remedy = "not a folder that DVC knows the content of", "give a folder that was added with `dvc add`"
    else:
        return md5
    raise UserError(problem, place=path, remedy=remedy)


def check_complete(tracked: Tracked) -> int:
    """Return how many files the remote holds of a tracked folder; raise UserError when it is not all of them."""
    store = RemoteStore(tracked.config)
    listing = store.listing(tracked.md5)
    missing = store.missing(listing)
    if missing:
        problem = f"{store.url} lacks {len(missing)} of its {len(listing)} files, such as {missing[0]}"
        remedy = f"run `dvc push {tracked.path}` where the corpus is whole"
        raise UserError(problem, place=tracked.path, remedy=remedy)
    return len(listing)
