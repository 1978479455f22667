"""Unpack a corpus that comes as .tar.gz, archives inside archives included, trusting nothing in it.

MELD is published as MELD.Raw.tar.gz, which holds train.tar.gz, dev.tar.gz and test.tar.gz.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from emoverse.errors import UserError

ENDINGS: Final = (".tar.gz", ".tgz", ".tar", ".tar.xz", ".tar.bz2")
MAX_BYTES: Final = 500 << 30  # the largest corpus, MOSEI's raw videos, has some 100 GB
MAX_FILES: Final = 2_000_000
MAX_RATIO: Final = 200  # unpacked bytes a packed byte; video hardly shrinks at all, zeros shrink a thousandfold
MAX_DEPTH: Final = 2
_REMEDY: Final = "fetch the archive again from its publisher, and do not use this one"


def is_archive(path: Path) -> bool:
    """Tell whether a file name is that of an archive we unpack."""
    return path.name.lower().endswith(ENDINGS)


def unpack(archive: Path, target: Path) -> int:
    """Unpack an archive and the archives inside it into ``target``, which must not exist; return the number of files.

    Only files and folders inside ``target`` are written. Raises UserError, and removes what was written, for a name
    that is absolute or climbs out, for a link, a device or a name that comes twice, for an archive that unpacks to
    absurd sizes, and for one that ends too early, each naming archive and member.
    """
    if target.exists():
        raise UserError("there is something already", place=str(target), remedy="give a folder that does not exist")
    draft = target.with_name(f".{target.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        budget = _Budget(min(MAX_BYTES, MAX_RATIO * max(archive.stat().st_size, 1 << 20)))
        _unpack(archive, draft, budget, archive.name, 0)
        draft.rename(target)
    except FileNotFoundError as error:
        raise UserError("no such archive", place=str(archive), remedy="give the path of a .tar.gz") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return budget.files


class _Budget:
    """What may still be written."""

    def __init__(self, size: int) -> None:
        self.size, self.files = size, 0

    def spend(self, size: int, place: str) -> None:
        self.size, self.files = self.size - size, self.files + 1
        if self.size < 0 or self.files > MAX_FILES:
            raise UserError("it unpacks to far more than a corpus holds", place=place, remedy=_REMEDY)


def _unpack(archive: Path, folder: Path, budget: _Budget, place: str, depth: int) -> None:
    inner: list[Path] = []
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                where = f"{place}: {member.name}"
                if member.isdir():
                    _inside(member.name, where)
                    continue
                if not member.isfile():
                    raise UserError("it is a link or a device, not a file", place=where, remedy=_REMEDY)
                path = folder / _inside(member.name, where)
                if path.exists():
                    raise UserError("the name comes twice", place=where, remedy=_REMEDY)
                budget.spend(member.size, where)
                path.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None
                with path.open("xb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
                if is_archive(path):
                    inner.append(path)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UserError(f"it is broken or ends too early ({error})", place=place, remedy="fetch it again") from error
    for path in inner:
        if depth + 1 > MAX_DEPTH:
            raise UserError(f"archives lie more than {MAX_DEPTH} deep", place=place, remedy=_REMEDY)
        _unpack(path, path.parent, budget, f"{place}: {path.relative_to(folder).as_posix()}", depth + 1)
        path.unlink()


def _inside(name: str, where: str) -> PurePosixPath:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        raise UserError("its name leads out of the folder", place=where, remedy=_REMEDY)
    return pure
