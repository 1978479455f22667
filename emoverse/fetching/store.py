"""Read a DVC remote by content: which objects it holds, and a folder's files brought from it, checked one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

from emoverse.errors import UserError
from emoverse.fetching.settings import scheme_of, variables, without_secrets

Result = TypeVar("Result")
SUFFIX: Final = ".dir"


class Store:
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
        if not md5.endswith(SUFFIX):
            raise UserError(f"{md5!r} names no folder", place=self.url, remedy=f"give the md5 that ends in {SUFFIX}")
        path = self._objects.oid_to_path(md5)
        content: bytes = self._asked(lambda: self._objects.fs.cat_file(path), missing=md5)
        if hashlib.md5(content, usedforsecurity=False).hexdigest() + SUFFIX != md5:
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
