"""Find a clip's file and read its properties without decoding all of it."""

from __future__ import annotations

import math
import os
import re
import struct
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from emoverse.errors import UserError

REASONS: Final = {
    "clip-missing": "no file lies where the annotation points",
    "clip-outside-root": "the path or a link leads out of the corpus folder",
    "clip-empty": "the file has no bytes, or no frames",
    "clip-truncated": "the file ends before its own header says",
    "clip-unreadable": "no decoder could read it",
    "no-video-stream": "it holds sound only",
    "clip-timeout": "the decoder did not answer in time and was stopped",
    "clip-crashed-decoder": "the decoder took its process down",
    "clip-unannotated": "no annotation row mentions the file",
}


class ClipError(UserError):
    """Report one clip that cannot be used: ``reason`` is a key of REASONS, ``problem`` the decoder's own words."""

    def __init__(self, reason: str, detail: str, *, clip: str = "") -> None:
        assert reason in REASONS, reason
        self.reason, self.detail = reason, tidy(detail)
        super().__init__(f"{reason}: {self.detail}", place=clip, remedy="replace the file, or leave it out")


def tidy(text: str) -> str:
    """Return a decoder's message without clock, addresses and stack, so that two runs write the same bytes."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    kept = []
    for line in lines:
        if line.startswith(("Stack trace", "[bt]")):
            break
        line = re.sub(r"\[\d\d:\d\d:\d\d\] ", "", line)
        line = re.sub(r" ?@ ?0x[0-9a-fA-F]+", "", line)
        line = re.sub(r"\(-?\d+ vs\. ", "(", line)  # decord prints an uninitialised number here
        kept.append(re.sub(r"/\S*/(src/)", r"\1", line))
    return " ".join(kept)[:500] or "no message"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Facts of one clip. ``width`` and ``height`` are pixels as shown, after ``rotation`` (degrees, 0 90 180 270).

    ``frames`` is counted from the packets, not taken from the header; ``fps`` is frames over ``duration`` (seconds), so
    it is the mean rate where the rate varies. ``decoder`` is the one that read the frames.
    """

    duration: float
    frames: int
    fps: float
    width: int
    height: int
    codec: str
    rotation: int
    has_audio: bool
    decoder: str = ""


@dataclass(frozen=True)
class Header:
    """The part of a probe that needs no packet: ``frames`` is what the container claims, 0 when it does not say."""

    duration: float | None
    frames: int
    codec: str
    has_audio: bool
    rotation: int = 0


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Header]]:
    """Open a clip with PyAV; yield the container and what it says of itself.

    Raises ClipError for an empty, truncated, unreadable or audio-only file.
    """
    import av

    size = path.stat().st_size
    if size == 0:
        raise ClipError("clip-empty", "the file has 0 bytes", clip=path.name)
    rotation = check_boxes(path, size)
    # FFmpeg decodes frames to learn what an MP4 file's header says already: a tenth of the time a clip takes.
    asked: dict[str, Any] = {} if rotation is None else {"stream_options": [{"skip_frame": "all"}] * 16}
    try:
        container = av.open(str(path), metadata_errors="ignore", **asked)
    except (av.error.FFmpegError, ValueError) as error:
        raise ClipError("clip-unreadable", pyav_text(error), clip=path.name) from error
    with container:
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
            raise ClipError("no-video-stream", f"its streams: {kinds}", clip=path.name)
        yield container, replace(describe(container), rotation=rotation or 0)


def read_header(path: Path) -> Header:
    """Open a clip and describe it; raise ClipError as ``opened`` does."""
    with opened(path) as (_, header):
        return header


def describe(container: Any) -> Header:
    """Return the header facts of an open PyAV container that has a video stream."""
    stream = container.streams.video[0]
    duration: float | None
    if stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    else:
        duration = container.duration / 1e6 if container.duration is not None else None
    # The context is named after the decoder (libdav1d); the canonical name is the codec's (av1).
    codec = stream.codec_context.codec.canonical_name if stream.codec_context is not None else "unknown"
    return Header(duration, int(stream.frames or 0), codec, bool(container.streams.audio))


def pyav_text(error: BaseException) -> str:
    """Return PyAV's message without the path, which may be absolute."""
    text = getattr(error, "strerror", None) or str(error)
    return f"pyav: {text}"


def check_boxes(path: Path, size: int) -> int | None:
    """Walk the boxes of an MP4 file; return the degrees (clockwise) a player turns its picture, None for other files.

    Raises ClipError when the file ends inside a box, as a half-finished download does: a decoder would read it up to
    the cut, and every frame index would then mean another moment.
    """
    rotation = 0
    with path.open("rb") as handle:
        if handle.read(12)[4:8] not in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
            return None
        start = 0
        while start + 8 <= size:
            length, kind = _box(handle, start, size)
            if length < 8:
                raise ClipError("clip-unreadable", f"a broken box at byte {start}", clip=path.name)
            if start + length > size:
                detail = f"box {kind!r} at byte {start} has {length:,} bytes, the file lacks {start + length - size:,}"
                raise ClipError("clip-truncated", detail, clip=path.name)
            if kind == "moov":
                handle.seek(start)
                rotation = _rotation(handle.read(length))
            start += length
    return rotation


def _box(handle: BinaryIO, start: int, size: int) -> tuple[int, str]:
    handle.seek(start)
    head = handle.read(16)
    length, kind = int(struct.unpack(">I", head[:4])[0]), head[4:8].decode("latin-1")
    if length == 1 and len(head) == 16:  # a 64-bit length follows the name
        return int(struct.unpack(">Q", head[8:])[0]), kind
    return (size - start if length == 0 else length), kind  # 0: the box reaches to the end of the file


def _rotation(moov: bytes) -> int:
    """Return the turn in the first track header (ISO 14496-12, 8.3.2) that has a picture size."""
    at = moov.find(b"tkhd")
    while at >= 0:
        body = at + 8 + (32 if moov[at + 4 : at + 5] == b"\x01" else 20) + 16
        if body + 44 > len(moov):
            return 0
        a, b, *_, width, height = struct.unpack(">9iII", moov[body : body + 44])
        if width and height:
            return round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360
        at = moov.find(b"tkhd", at + 4)
    return 0


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
            raise ClipError("clip-missing", self.missing_detail(clip), clip=clip)
        if not path.is_file():
            raise ClipError("clip-unreadable", "not a regular file", clip=clip)
        return path

    def missing_detail(self, clip: str) -> str:
        """Say that a clip is missing, and name the folder that is, or a video by that name of another format."""
        folder = PurePosixPath(clip).parent.as_posix()
        if same := self._by_stem.get(_stem(nfc(clip))):
            return f"no file {clip!r}, but {', '.join(map(repr, same))}: rename it if it is an MP4, else convert it"
        if folder not in (".", *self._folders):
            return f"no file {clip!r}: there is no folder {folder!r}"
        return f"no file {clip!r}"

    def leaving(self) -> list[str]:
        """Return links that lead out of the root: folders, and all files but clips, of which each is its row's fault.

        What is read through them has no part in the corpus's digest, so no version of the corpus would hold it.
        """
        names = [name for name in self._files.values() if PurePosixPath(name).suffix.lower() not in VIDEO]
        links = [self.root / name for name in [*self._folders, *names] if (self.root / name).is_symlink()]
        return [str(link) for link in links if not link.resolve().is_relative_to(self._home)]

    def beside(self, mentioned: Set[str]) -> list[str]:
        """Return the video files (NFC, sorted) that are not among the ``mentioned`` clips (NFC)."""
        return [name for name in self._videos if name not in mentioned]

    @cached_property
    def _videos(self) -> list[str]:
        return sorted(name for name in self._files if PurePosixPath(name).suffix.lower() in VIDEO)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        names: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._videos:
            names[_stem(name)].append(name)
        return dict(names)


def _stem(name: str) -> str:
    return name.rpartition(".")[0].lower()
