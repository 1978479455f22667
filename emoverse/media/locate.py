"""Find the file of a clip below the corpus root, whatever its name's Unicode form, and never outside the root."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Set
from pathlib import Path, PurePosixPath
from typing import Final

from emoverse.media.errors import ClipError

VIDEO: Final = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".mpg", ".mpeg", ".wmv"})


def nfc(name: str) -> str:
    """Return a name in the Unicode form that tables use; macOS writes file names decomposed."""
    return unicodedata.normalize("NFC", name)


class ClipFiles:
    """The files below one corpus root, listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._home = root.resolve()
        self._files: dict[str, str] = {}
        self._folders: list[str] = []
        for folder, folders, names in os.walk(root):
            folders.sort()
            self._folders += [(Path(folder) / name).relative_to(root).as_posix() for name in folders]
            for name in sorted(names):
                relative = (Path(folder) / name).relative_to(root).as_posix()
                self._files.setdefault(nfc(relative), relative)

    def find(self, clip: str) -> Path:
        """Return the path of a clip (relative, POSIX); raise ClipError when it is missing or leads out of the root."""
        pure = PurePosixPath(clip)
        if pure.is_absolute() or ".." in pure.parts:
            raise ClipError("clip-outside-root", f"{clip!r} is not a path inside the corpus", clip=clip)
        path = self.root / self._files.get(nfc(clip), clip)
        home = path.resolve()
        if not home.is_relative_to(self._home):
            detail = "a link leads out of the corpus; DVC's cache.type must be copy, reflink or hardlink"
            raise ClipError("clip-outside-root", detail, clip=clip)
        if not path.exists():
            raise ClipError("clip-missing", f"no file {clip!r}", clip=clip)
        if not path.is_file():
            raise ClipError("clip-unreadable", "not a regular file", clip=clip)
        return path

    def leaving(self) -> list[str]:
        """Return links that lead out of the root: folders, and all files but clips, of which each is its row's fault.

        What is read through them has no part in the corpus's digest, so no version of the corpus would hold it.
        """
        names = [name for name in self._files.values() if PurePosixPath(name).suffix.lower() not in VIDEO]
        links = [self.root / name for name in [*self._folders, *names] if (self.root / name).is_symlink()]
        return [str(link) for link in links if not link.resolve().is_relative_to(self._home)]

    def beside(self, mentioned: Set[str]) -> list[str]:
        """Return the video files (NFC, sorted) that are not among the ``mentioned`` clips (NFC)."""
        return sorted(n for n in self._files if PurePosixPath(n).suffix.lower() in VIDEO and n not in mentioned)
