"""DVC's interfaces that are not public, each with its reason; tests/unit/test_compat_dvc.py holds them to the version.

DVC's public API (``dvc.api``, ``DVCFileSystem``) opens files of a repository. A pod has no repository, only an MD5 and
a remote's settings, and a check must neither download nor change anything; for that the public API has no call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoverse.errors import UserError


def read_config(repository: Path) -> Any:
    """Return a repository's configuration: ``dvc.api`` has no call for it, and ``dvc config`` hides no secret."""
    from dvc.config import Config

    return Config(str((repository / ".dvc").absolute()))


def remote_settings(config: Any, name: str) -> dict[str, Any]:
    """Return a remote's settings with relative addresses resolved."""
    from dvc.fs import get_fs_config

    return dict(get_fs_config(config, name=name))


@dataclass(frozen=True)
class Output:
    """A tracked output: its hash, the name of the hash, and the remote that its ``.dvc`` file names."""

    value: str
    hash_name: str
    remote: str


def find_output(repository: Path, path: str, revision: str) -> Output:
    """Find what tracks a path at a revision; ``DVCFileSystem`` gives no hash of a folder and no remote's name.

    Raises:
        UserError: The path is not tracked, or the revision cannot be read.
    """
    from dvc.exceptions import DvcException, OutputNotFoundError
    from dvc.repo import Repo
    from dvc.scm import RevError
    from scmrepo.exceptions import SCMError

    try:
        with Repo(str(repository), rev=revision or None) as repo:
            (out,) = repo.find_outs_by_path(str(Path(repo.root_dir, path)))
            return Output(str(out.hash_info.value or ""), str(out.hash_name), str(out.remote or ""))
    except OutputNotFoundError:
        remedy = "run `dvc add` and commit the .dvc file, or give a folder that one names"
        at = f" at {revision}" if revision else ""
        raise UserError(f"no .dvc file names it{at}", place=path, remedy=remedy) from None
    except (RevError, SCMError) as error:
        raise _without_revision(repository, revision, error) from None
    except DvcException as error:
        if not _git_folder(repository):
            raise _without_revision(repository, revision, error) from None
        raise UserError(f"DVC cannot read it: {error}", place=path, remedy="restore it with `git checkout`") from None


def _without_revision(repository: Path, revision: str, error: Exception) -> UserError:
    """Return why git cannot give a revision (empty: why DVC finds no git)."""
    git = _git_folder(repository)
    if not git and revision:
        remedy = "leave --rev out, or run in a git checkout"
        return UserError("not a git repository, so it has no revisions", place=revision, remedy=remedy)
    if not git:
        remedy = "run `dvc config core.no_scm true` there: DVC then works without git"
        return UserError("DVC finds no git repository", place=str(repository.absolute()), remedy=remedy)
    remedy = "name a commit, tag or branch"
    if revision and (git / "shallow").exists():
        remedy = "this clone is shallow: run `git fetch --unshallow`, and give the revision again"
    return UserError(f"git does not know it: {error}", place=revision or str(repository), remedy=remedy)


def _git_folder(repository: Path) -> Path | None:
    root = repository.absolute()
    return next((folder / ".git" for folder in (root, *root.parents) if (folder / ".git").exists()), None)


class ObjectStore:
    """The objects of a remote by MD5. Only ``copy`` writes, and only to the local folder."""

    def __init__(self, config: Mapping[str, Any], *, ssh: bool) -> None:
        from dvc.fs import get_cloud_fs
        from dvc_data.hashfile.db import get_odb

        kind, settings, path = get_cloud_fs({"remote": {"raw": dict(config)}}, name="raw")
        if ssh:
            from asyncssh import SSHClient

            settings["client_factory"] = SSHClient  # DVC's own asks a terminal for the password, and a pod has none
        self._files = kind(**settings)
        self._objects = get_odb(self._files, self._files.join(path, "files", "md5"), hash_name="md5")

    def path(self, md5: str) -> str:
        """Return the path of an object in the remote."""
        return str(self._objects.oid_to_path(md5))

    def read(self, md5: str) -> bytes:
        """Return an object's content; raise FileNotFoundError when it is missing."""
        return bytes(self._files.cat_file(self.path(md5)))

    def existing(self, wanted: Sequence[str]) -> set[str]:
        """Return which objects exist.

        In a folder their files are looked at here: DVC's ``oids_exist`` deletes those whose content does not match
        their name, and changes the mode of the others.
        """
        if self._files.protocol == "local":
            return {md5 for md5 in wanted if Path(self.path(md5)).is_file()}
        return set(self._objects.oids_exist(list(wanted)))

    def sizes(self, wanted: Sequence[str]) -> list[int]:
        """Return the bytes of each object; raise FileNotFoundError when one is missing."""
        return [int(entry["size"]) for entry in self._files.info([self.path(md5) for md5 in wanted])]

    def copy(self, objects: Iterable[tuple[str, Path]], jobs: int | None) -> None:
        """Copy objects to local files; raise FileNotFoundError when one is missing."""
        from dvc.fs import generic, localfs

        pairs = list(objects)
        generic.copy(
            self._files,
            [self.path(md5) for md5, _ in pairs],
            localfs,
            [str(target) for _, target in pairs],
            batch_size=jobs or self._files.jobs,
        )


def changed_stages(repository: Path) -> dict[str, Any]:
    """Return what ``dvc status`` reports, by stage; the command prints it, ``dvc.api`` has no call for it.

    Raises:
        UserError: DVC cannot read the repository.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(repository)) as repo:
            return dict(repo.status())
    except DvcException as error:
        raise UserError(f"DVC cannot read it: {error}", place=str(repository), remedy="run `dvc status`") from None
