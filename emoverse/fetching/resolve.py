"""Find what a DVC repository knows of a path at a git revision: its MD5, and the remote that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoverse.errors import UserError
from emoverse.fetching.settings import public, with_secrets
from emoverse.fetching.store import SUFFIX, Store


@dataclass(frozen=True)
class Tracked:
    """A folder under DVC: its MD5, and its remote's settings, secrets of this machine included."""

    path: str
    md5: str
    config: Mapping[str, Any]

    @property
    def remote(self) -> str:
        """Return the remote's settings without secrets, as a pipeline carries them."""
        return public(self.config, place=self.path)


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

    remotes = Remotes(repository)
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


class Remotes:
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
    elif not md5.endswith(SUFFIX):
        problem, remedy = "not a folder that DVC knows the content of", "give a folder that was added with `dvc add`"
    else:
        return md5
    raise UserError(problem, place=path, remedy=remedy)


def check_held(tracked: Tracked) -> int:
    """Return how many files the remote holds of a tracked folder; raise UserError when it is not all of them."""
    store = Store(tracked.config)
    listing = store.listing(tracked.md5)
    missing = store.missing(listing)
    if missing:
        problem = f"{store.url} lacks {len(missing)} of its {len(listing)} files, such as {missing[0]}"
        remedy = f"run `dvc push {tracked.path}` where the corpus is whole"
        raise UserError(problem, place=tracked.path, remedy=remedy)
    return len(listing)
