"""Unpack a corpus that comes as an archive, archives inside it included, without trusting its content.

MELD is published as MELD.Raw.tar.gz, which contains train.tar.gz, dev.tar.gz and test.tar.gz; others come as .zip.
"""

from __future__ import annotations

import errno
import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from emoverse.artifacts.manifest import exclusive
from emoverse.errors import DISK_FULL, UserError

SUFFIXES: Final = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar", ".zip")
MAX_BYTES: Final = 500 << 30  # the largest corpus, MOSEI's raw videos, has some 100 GB
MAX_FILES: Final = 2_000_000
MAX_RATIO: Final = 200  # unpacked bytes per packed byte; video hardly shrinks at all, zeros shrink a thousandfold
MAX_DEPTH: Final = 2
MAX_HEADER: Final = 1 << 20  # bytes of one extended tar header, which tarfile reads into memory
_BLOCK: Final = 1 << 20
_REMEDY: Final = "fetch the archive again from its publisher, and do not use this one"
_BROKEN: Final = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, NotImplementedError,
)  # fmt: skip
_OTHER_FORMATS: Final[tuple[tuple[bytes, str, str], ...]] = (
    (b"Rar!\x1a\x07", "is a RAR archive", "unpack it with `unrar x` or `7z x`"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive", "unpack it with `7z x`"),
    (b"PK\x07\x08", "is one part of a split zip archive", "put all parts in one folder and unpack with `7z x`"),
    (b"<!doctype html", "is a web page, not an archive", "download the file itself: the page says why it was sent"),
    (b"<html", "is a web page, not an archive", "download the file itself: the page says why it was sent"),
)
"""First bytes of files that people take for archives, compared in lower case, what they are and what to do."""
_PART: Final = re.compile(r"\.(?:z\d\d|r\d\d|\d{3}|part\d+(?:\.rar)?)\Z", re.IGNORECASE)


@dataclass(frozen=True)
class _Member:
    """One entry of an archive; ``extract`` writes a file below a folder."""

    name: str
    kind: Literal["file", "folder", "other"]
    size: int
    extract: Callable[[Path], object]


def unpack(archive: Path, target: Path, *, report: Callable[[str], None] = lambda place: None) -> int:
    """Unpack an archive and the archives inside it into ``target``, which must not exist; return the number of files.

    ``train.tar.gz`` inside becomes the folder ``train``; a folder named after its archive is not doubled. macOS's own
    files (``__MACOSX/``, ``._*``, ``.DS_Store``) are skipped. Only files and folders inside ``target`` are written, all
    or nothing. ``report`` is called with the name of each archive that is begun.

    Raises:
        UserError: Nothing is left behind, and archive and member are named: an absolute name or one that climbs out,
            one that is not UTF-8 or occurs twice, a link, a device, absurd sizes, an archive that ends too early or is
            of another format, and a full disk.
    """
    if not archive.is_file():
        raise UserError("no such archive", place=str(archive), remedy=f"give the path of a {', '.join(SUFFIXES)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.partial")
    size = archive.stat().st_size
    budget = _Budget(min(MAX_BYTES, MAX_RATIO * max(size, _BLOCK)))
    with exclusive(target, "unpack"):
        if target.exists():
            raise UserError("already exists", place=str(target), remedy="give a folder that does not exist")
        shutil.rmtree(draft, ignore_errors=True)  # left by a killed run
        try:
            draft.mkdir()
            if shutil.disk_usage(draft).free < size:
                raise OSError(errno.ENOSPC, "not even the packed bytes would fit")
            _unpack(archive, draft, budget, archive.name, 0, report)
            _content(draft, _stem(archive)).rename(target)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            free = shutil.disk_usage(draft.parent).free
            problem = f"the disk is full: {free:,} bytes were left after {budget.spent:,} of {archive.name}"
            # Archives inside are on the disk both packed and unpacked for a while.
            remedy = f"free about {2 * max(size, budget.spent):,} bytes, or give --out on another disk"
            raise UserError(problem, place=str(target), remedy=remedy) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return budget.files


class _Budget:
    """Limit on the bytes and files that may be written."""

    def __init__(self, size: int) -> None:
        self.size, self.spent, self.files = size, 0, 0

    def spend(self, size: int, place: str) -> None:
        self.spent, self.files = self.spent + size, self.files + 1
        if self.spent > self.size or self.files > MAX_FILES:
            raise UserError("it unpacks to far more than a corpus holds", place=place, remedy=_REMEDY)


def _unpack(
    archive: Path, folder: Path, budget: _Budget, place: str, depth: int, report: Callable[[str], None]
) -> None:
    """Write an archive's members below ``folder``, then the content of the archives among them."""
    report(place)
    inner: list[Path] = []
    with _reporting_broken_archive(archive, place):
        for member in _zip_members(archive, place) if zipfile.is_zipfile(archive) else _tar_members(archive, place):
            where = f"{place}: {member.name}"
            pure = PurePosixPath(member.name)
            if pure.is_absolute() or ".." in pure.parts or "\\" in member.name or "\0" in member.name:
                raise UserError("its name leads out of the folder", place=where, remedy=_REMEDY)
            if member.kind == "other":
                raise UserError("it is a link or a device, not a file", place=where, remedy=_REMEDY)
            if member.kind == "folder" or _is_of_macos(pure):
                continue
            budget.spend(member.size, where)
            _write(member, folder, pure, where)
            if pure.name.lower().endswith(SUFFIXES):
                inner.append(folder / pure)
    for path in inner:
        name = path.relative_to(folder).as_posix()
        if depth + 1 > MAX_DEPTH:
            raise UserError(f"archives are nested more than {MAX_DEPTH} deep", place=f"{place}: {name}", remedy=_REMEDY)
        _unpack_inner(path, budget, f"{place}: {name}", depth + 1, report)


def _unpack_inner(path: Path, budget: _Budget, place: str, depth: int, report: Callable[[str], None]) -> None:
    """Turn ``train.tar.gz`` into the folder ``train``, whether or not its members are already in a ``train``."""
    home = path.with_name(_stem(path))
    if home.exists():
        raise UserError(f"it would unpack over {home.name!r} beside it", place=place, remedy=_REMEDY)
    draft = path.with_name(f".{home.name}.inner")
    draft.mkdir()
    _unpack(path, draft, budget, place, depth, report)
    path.unlink()
    _content(draft, home.name).rename(home)
    shutil.rmtree(draft, ignore_errors=True)


def _stem(archive: Path) -> str:
    suffix = next((end for end in SUFFIXES if archive.name.lower().endswith(end)), "")
    return archive.name[: -len(suffix)] or "archive" if suffix else archive.name


def _content(folder: Path, stem: str) -> Path:
    """Return the one folder in a folder when it is named after the archive, else the folder itself."""
    entries = list(folder.iterdir())
    return entries[0] if [entry.name for entry in entries] == [stem] and entries[0].is_dir() else folder


def _is_of_macos(name: PurePosixPath) -> bool:
    """Return whether macOS added the file: resource forks, folder settings."""
    return "__MACOSX" in name.parts or name.name.startswith("._") or name.name == ".DS_Store"


def _write(member: _Member, folder: Path, name: PurePosixPath, where: str) -> None:
    try:
        if (folder / name).exists():
            raise UserError("the name occurs twice", place=where, remedy=_REMEDY)
        member.extract(folder)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError("one name is both a file and a folder", place=where, remedy=_REMEDY) from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise UserError("its name is too long for this disk", place=where, remedy="unpack it elsewhere") from error


class _TarInfo(tarfile.TarInfo):
    """A member whose extended headers are of limited size: tarfile would read any into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if not (self.isreg() or self.isdir()) and self.size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def _tar_members(archive: Path, place: str) -> Iterator[_Member]:
    with tarfile.open(archive, "r:*", tarinfo=_TarInfo) as tar:
        for info in tar:
            _check_utf8(info.name.encode("utf-8", "surrogateescape"), place)
            kind: Any = "file" if info.isfile() else "folder" if info.isdir() else "other"
            extract = lambda folder, info=info: tar.extract(info, folder, filter="data")  # noqa: E731
            yield _Member(info.name, kind, info.size, extract)
            tar.members = []  # type: ignore[attr-defined]  # it would remember every member


def _zip_members(archive: Path, place: str) -> Iterator[_Member]:
    try:
        packed = zipfile.ZipFile(archive)
    except UnicodeDecodeError as error:  # a name that is marked as UTF-8 and is not
        _check_utf8(error.object, place)
        raise
    with packed:
        for info in packed.infolist():
            if not info.flag_bits & 0x800 and not info.filename.isascii():  # no encoding named: zipfile took cp437
                raw = info.filename.encode("cp437")
                _check_utf8(raw, place)
                info.filename = raw.decode("utf-8")  # macOS and Linux write UTF-8 without the mark
            if info.flag_bits & 1:
                remedy = "unpack it with its password, and give the folder to `dvc add`"
                raise UserError("it is encrypted", place=f"{place}: {info.filename}", remedy=remedy)
            mode = stat.S_IFMT(info.external_attr >> 16)
            is_plain = mode in (0, stat.S_IFREG, stat.S_IFDIR)
            kind: Any = "other" if not is_plain else "folder" if info.is_dir() else "file"
            extract = lambda folder, info=info: packed.extract(info, folder)  # noqa: E731
            yield _Member(info.filename, kind, info.file_size, extract)


def _check_utf8(raw: bytes, place: str) -> None:
    """Raise UserError for a name that is not UTF-8; ids and paths are UTF-8 everywhere."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        readings = [f"{raw.decode(name)!r} in {label}" for name, label in _ENCODINGS if _decodes(raw, name)]
        remedy = "unpack it with `unzip -O GBK` (or the encoding that reads right), and give the folder to `dvc add`"
        problem = f"its name is not UTF-8; it reads as {', as '.join(readings)}"
        shown = raw.decode("utf-8", "backslashreplace")
        raise UserError(problem, place=f"{place}: {shown}", remedy=remedy) from None


_ENCODINGS: Final = (("gbk", "GBK"), ("cp437", "cp437"))


def _decodes(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def _reporting_broken_archive(archive: Path, place: str) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        with archive.open("rb") as handle:
            start = handle.read(64).lstrip().lower()
        for magic, problem, remedy in _OTHER_FORMATS:
            if start.startswith(magic.lower()):
                raise UserError(problem, place=place, remedy=f"{remedy}, and give the folder to `dvc add`") from error
        if part := _PART.search(archive.name):
            remedy = "put all parts in one folder, unpack them with `7z x`, and give the folder to `dvc add`"
            raise UserError(f"is one part ({part[0]}) of a split archive", place=place, remedy=remedy) from error
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile adds a line for each format it tried
        if reason.startswith("file could not be opened"):
            reason = "it does not begin as an archive does"
        raise UserError(f"it is broken or ends too early ({reason})", place=place, remedy="fetch it again") from error
