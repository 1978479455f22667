"""Bring one raw corpus to where ``validate`` can read it, and refuse any content but the one that was asked for."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emoverse.digests import digest_of_files, dvc_dir_md5, raw_sums
from emoverse.errors import UserError
from emoverse.fetching.settings import complete
from emoverse.fetching.store import Store

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
        facts = keep(md5, complete(remote), folder)
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


def keep(md5: str, config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
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
    store = Store(config)
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
