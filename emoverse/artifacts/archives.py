"""Unpack a corpus that comes as an archive, archives inside it included, trusting nothing in it.

MELD is published as MELD.Raw.tar.gz, which holds train.tar.gz, dev.tar.gz and test.tar.gz; others come as .zip.
"""

from __future__ import annotations

import errno
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from emoverse.artifacts.manifest import exclusive
from emoverse.errors import UserError

ENDINGS: Final = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar", ".zip")
MAX_BYTES: Final = 500 << 30  # the largest corpus, MOSEI's raw videos, has some 100 GB
MAX_FILES: Final = 2_000_000
MAX_RATIO: Final = 200  # unpacked bytes a packed byte; video hardly shrinks at all, zeros shrink a thousandfold
MAX_DEPTH: Final = 2
MAX_HEADER: Final = 1 << 20  # bytes of one extended tar header, which tarfile reads into memory
_BLOCK: Final = 1 << 20
_REMEDY: Final = "fetch the archive again from its publisher, and do not use this one"
_BROKEN: Final = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, NotImplementedError,
)  # fmt: skip


@dataclass(frozen=True)
class _Member:
    """One entry of an archive: ``kind`` is file, folder or other; ``source`` opens a file's bytes."""

    name: str
    kind: str
    size: int
    source: Callable[[], IO[bytes]]


def unpack(archive: Path, target: Path, *, say: Callable[[str], None] = lambda text: None) -> int:
    """Unpack an archive and the archives inside it into ``target``, which must not exist; return the number of files.

    ``train.tar.gz`` inside becomes the folder ``train``; a folder named as its archive is not doubled. Only files and
    folders inside ``target`` are written, all or nothing. Raises UserError, and removes what was written, for a name
    that is absolute or climbs out, for a link, a device or a name that comes twice, for an archive that unpacks to
    absurd sizes, for one that ends too early, each naming archive and member, and when the disk is full.
    ``say`` is told of each archive that is begun.
    """
    if not archive.is_file():
        raise UserError("no such archive", place=str(archive), remedy=f"give the path of a {', '.join(ENDINGS)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.partial")
    size = archive.stat().st_size
    budget = _Budget(min(MAX_BYTES, MAX_RATIO * max(size, _BLOCK)))
    with exclusive(target, "unpack"):
        if target.exists():
            raise UserError("there is something already", place=str(target), remedy="give a folder that does not exist")
        shutil.rmtree(draft, ignore_errors=True)  # what a killed run left behind
        try:
            draft.mkdir()
            if shutil.disk_usage(draft).free < size:
                raise OSError(errno.ENOSPC, "not even the packed bytes would fit")
            _unpack(archive, draft, budget, archive.name, 0, say)
            _content(draft, _stem(archive)).rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = shutil.disk_usage(draft.parent).free
            problem = f"the disk is full: {free:,} bytes were left after {budget.spent:,} of {archive.name}"
            # Archives inside stand there packed and unpacked for a while.
            remedy = f"free about {2 * max(size, budget.spent):,} bytes, or give --out on another disk"
            raise UserError(problem, place=str(target), remedy=remedy) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return budget.files


class _Budget:
    """What may still be written."""

    def __init__(self, size: int) -> None:
        self.size, self.spent, self.files = size, 0, 0

    def spend(self, size: int, place: str) -> None:
        self.spent, self.files = self.spent + size, self.files + 1
        if self.spent > self.size or self.files > MAX_FILES:
            raise UserError("it unpacks to far more than a corpus holds", place=place, remedy=_REMEDY)


def _unpack(archive: Path, folder: Path, budget: _Budget, place: str, depth: int, say: Callable[[str], None]) -> None:
    """Write an archive's members below ``folder``, then what the archives among them hold."""
    say(place)
    inner: list[Path] = []
    with _named_if_broken(place):
        for member in _members(archive, place):
            where = f"{place}: {member.name}"
            path = folder / _inside(member.name, where)
            if member.kind == "other":
                raise UserError("it is a link or a device, not a file", place=where, remedy=_REMEDY)
            if member.kind == "folder":
                continue
            budget.spend(member.size, where)
            _write(member, path, where)
            if path.name.lower().endswith(ENDINGS):
                inner.append(path)
    for path in inner:
        name = path.relative_to(folder).as_posix()
        if depth + 1 > MAX_DEPTH:
            raise UserError(f"archives lie more than {MAX_DEPTH} deep", place=f"{place}: {name}", remedy=_REMEDY)
        _unpack_inner(path, budget, f"{place}: {name}", depth + 1, say)


def _unpack_inner(path: Path, budget: _Budget, place: str, depth: int, say: Callable[[str], None]) -> None:
    """Turn ``train.tar.gz`` into the folder ``train``, whether or not its members already lie in a ``train``."""
    home = path.with_name(_stem(path))
    if home.exists():
        raise UserError(f"it would unpack over {home.name!r} beside it", place=place, remedy=_REMEDY)
    draft = path.with_name(f".{home.name}.inner")
    draft.mkdir()
    _unpack(path, draft, budget, place, depth, say)
    path.unlink()
    _content(draft, home.name).rename(home)
    shutil.rmtree(draft, ignore_errors=True)


def _stem(archive: Path) -> str:
    ending = next((end for end in ENDINGS if archive.name.lower().endswith(end)), "")
    return archive.name[: -len(ending)] or "archive" if ending else archive.name


def _content(folder: Path, stem: str) -> Path:
    """Return the one folder in a folder when it is named as the archive was, else the folder itself."""
    entries = list(folder.iterdir())
    return entries[0] if [entry.name for entry in entries] == [stem] and entries[0].is_dir() else folder


def _write(member: _Member, path: Path, where: str) -> None:
    try:
        if path.exists():
            raise UserError("the name comes twice", place=where, remedy=_REMEDY)
        path.parent.mkdir(parents=True, exist_ok=True)
        with member.source() as source, path.open("xb") as out:
            shutil.copyfileobj(source, out, _BLOCK)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError("one name is both a file and a folder", place=where, remedy=_REMEDY) from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise UserError("its name is too long for this disk", place=where, remedy="unpack it elsewhere") from error


def _inside(name: str, where: str) -> PurePosixPath:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        raise UserError("its name leads out of the folder", place=where, remedy=_REMEDY)
    return pure


def _members(archive: Path, place: str) -> Iterator[_Member]:
    yield from _zip_members(archive, place) if zipfile.is_zipfile(archive) else _tar_members(archive)


class _TarInfo(tarfile.TarInfo):
    """A member whose extended headers are of sane size: tarfile would read any into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if not (self.isreg() or self.isdir()) and self.size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive, "r:*", tarinfo=_TarInfo) as tar:
        for info in tar:
            kind = "file" if info.isfile() else "folder" if info.isdir() else "other"
            yield _Member(info.name, kind, info.size, lambda info=info: _opened(tar, info))  # type: ignore[misc]
            tar.members = []  # type: ignore[attr-defined]  # it would remember every member


def _opened(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    source = tar.extractfile(info)
    assert source is not None
    return source


def _zip_members(archive: Path, place: str) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            if info.flag_bits & 1:
                remedy = "unpack it with its password, and give the folder to `dvc add`"
                raise UserError("it is encrypted", place=f"{place}: {info.filename}", remedy=remedy)
            mode = stat.S_IFMT(info.external_attr >> 16)
            plain = mode in (0, stat.S_IFREG, stat.S_IFDIR)
            kind = "other" if not plain else "folder" if info.is_dir() else "file"
            yield _Member(info.filename, kind, info.file_size, lambda info=info: packed.open(info))  # type: ignore[misc]


@contextmanager
def _named_if_broken(place: str) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        why = str(error).partition("\n")[0].rstrip(":")  # of a file of another kind, tarfile says a line for each kind
        if why.startswith("file could not be opened"):  # tarfile's words for what is none of its kinds
            why = "it does not begin as an archive does"
        raise UserError(f"it is broken or ends too early ({why})", place=place, remedy="fetch it again") from error
