"""Find a clip's file, and read its properties without decoding it."""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

from emoverse.errors import UserError
from emoverse.media.containers import Fault, check_whole, container_of, is_mp4

REASONS: Final = {
    "clip-missing": "no file where the annotation points",
    "clip-outside-root": "the path or a link leads out of the corpus folder",
    "clip-empty": "the file has no bytes, or no frames",
    "clip-truncated": "the file ends before its own header says",
    "clip-damaged": "pictures are missing or not whole",
    "clip-unreadable": "FFmpeg cannot read it",
    "no-video-stream": "it holds sound, a cover or a still picture only",
    "clip-timeout": "decoding took too long, also alone and with ten times the time",
    "clip-crashed-decoder": "the decoder's process died, also when it ran alone",
    "clip-unannotated": "no annotation row mentions the file",
}


class ClipError(UserError):
    """Report one clip that cannot be used: ``reason`` is a key of REASONS, ``detail`` mostly FFmpeg's message."""

    def __init__(self, reason: str, detail: str, *, clip: str = "") -> None:
        assert reason in REASONS, reason
        self.reason, self.detail = reason, tidy(detail)
        super().__init__(f"{reason}: {self.detail}", place=clip, remedy="replace the file, or leave it out")


def tidy(text: str) -> str:
    """Return a message of FFmpeg on one line and without addresses, so that two runs write the same bytes."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return re.sub(r" ?@ ?0x[0-9a-fA-F]+", "", " ".join(lines))[:500] or "no message"


# What the system refuses, whatever the file is like.
MACHINE_ERRNOS: Final = frozenset(
    {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.ESTALE}
)


def raise_if_machine(error: BaseException, *, decoding: bool = False) -> None:
    """Raise MemoryError or OSError when FFmpeg's error is the machine's fault; a decoder's own codes mean the data."""
    code = getattr(error, "errno", None)
    if isinstance(error, MemoryError) or code == errno.ENOMEM:
        raise MemoryError(str(error)) from error
    if not decoding and code in MACHINE_ERRNOS:
        raise OSError(code, os.strerror(code), getattr(error, "filename", None)) from error


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Facts of one clip. ``width`` and ``height`` are pixels as shown: square, after ``rotation`` (degrees clockwise).

    ``duration`` (seconds) is the video stream's, from the first frame's start to the last one's end; ``frames`` was
    counted; ``fps`` is frames over duration, so it is the mean rate where the rate varies. Both are None where the file
    has no times. ``decoder`` is the library that read the frames. ``hdr`` frames look pale: they are not tone-mapped.

    Where the clip's content was measured (``media.decode``): ``black`` and ``frozen`` are shares (0..1) of the chosen
    frames, ``silent`` says whether its whole sound track is. None means not measured, or nothing to measure.
    """

    duration: float | None
    frames: int
    fps: float | None
    width: int
    height: int
    codec: str
    rotation: int
    has_audio: bool
    decoder: str = ""
    hdr: bool = False
    black: float | None = None
    frozen: float | None = None
    silent: bool | None = None


@dataclass(frozen=True)
class Header:
    """The part of a probe that needs no packet: ``duration`` is the video stream's own, where it has one."""

    duration: float | None
    codec: str
    has_audio: bool
    container: str = ""


# Containers of one file each: a playlist would make FFmpeg open whatever it names.
CONTAINERS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,gif,ivf,h264,hevc,obu,vc1,mjpeg,"
    "mxf,dv,rm,nut,wtv,yuv4mpegpipe,swf,nsv,apng,mp3,aac,wav,flac"
)
STILLS: Final = "jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe,gif_pipe"


@contextmanager
def open_clip(path: Path, *, quick: bool = False) -> Iterator[tuple[Any, Any, Header]]:
    """Open a clip with PyAV; yield the container, its best video stream, and the header's facts.

    Args:
        path: The clip.
        quick: Have FFmpeg believe an MP4 file's header where it would otherwise decode frames to learn more.

    Raises:
        ClipError: The file is empty, truncated or unreadable, or has no video.
    """
    import av

    if path.stat().st_size == 0:
        raise ClipError("clip-empty", "the file has 0 bytes", clip=path.name)
    if fault := check_whole(path):
        raise ClipError(fault.reason, f"{fault.detail} ({_kind_of_broken(path)})", clip=path.name)
    try:
        # A tenth of the time that a clip takes goes into frames that only tell what the header says already.
        container = _open(path, decode_none=quick and is_mp4(path))
    except (av.error.FFmpegError, ValueError) as error:
        raise_if_machine(error)
        kind = f"{container_of(path) or 'unknown container'}, unknown codec"
        raise ClipError("clip-unreadable", f"{av_message(error)} ({kind})", clip=path.name) from error
    with container:
        stream = container.streams.best("video")
        if fault := _fault_of_stream(container, stream):
            raise ClipError(fault.reason, f"{fault.detail} ({_kind(container)})", clip=path.name)
        yield container, stream, describe(container, stream)


def _open(path: Path, *, decode_none: bool) -> Any:
    """Open a file with PyAV; ``decode_none`` keeps FFmpeg from decoding frames to learn more than the header says."""
    import av

    probing: dict[str, Any] = {"stream_options": [{"skip_frame": "all"}] * 16} if decode_none else {}
    options = {"format_whitelist": f"{CONTAINERS},{STILLS}"}
    return av.open(str(path), metadata_errors="ignore", options=options, **probing)


def _fault_of_stream(container: Any, stream: Any) -> Fault | None:
    """Return why the best video stream of an open container is no video, None where it is one."""
    if stream is None:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        return Fault("no-video-stream", f"its streams: {kinds}")
    if container.format.name in STILLS.split(","):
        return Fault("no-video-stream", "a still picture")
    if stream.disposition & COVERS:
        return Fault("no-video-stream", "its only picture is a cover")
    if stream.codec_context is None:
        return Fault("clip-unreadable", "FFmpeg has no decoder for its codec")
    return None


def _kind_of_broken(path: Path) -> str:
    """Return container and codecs of a file that is not whole, as far as FFmpeg can still open it."""
    import av

    try:
        with _open(path, decode_none=True) as container:
            return _kind(container)
    except (av.error.FFmpegError, ValueError):
        return f"{container_of(path) or 'unknown container'}, unknown codec"


def _kind(container: Any) -> str:
    """Return container and codec of the best video stream; of all streams where there is no video."""
    best = container.streams.best("video")
    names = [
        "unknown codec" if stream.codec_context is None else stream.codec_context.codec.canonical_name
        for stream in ([best] if best else container.streams)
    ]
    return ", ".join([container.format.name.split(",")[0], *(names or ["no stream"])])


COVERS: Final = 0x400 | 0x800 | 0x100000  # AV_DISPOSITION_ATTACHED_PIC, _TIMED_THUMBNAILS, _STILL_IMAGE of FFmpeg


@contextmanager
def with_kind(header: Header) -> Iterator[None]:
    """Add container and codec to a ClipError's message."""
    try:
        yield
    except ClipError as error:
        raise ClipError(error.reason, f"{error.detail} ({header.container}, {header.codec})") from error


def read_header(path: Path) -> Header:
    """Open a clip and describe it; raise ClipError as ``open_clip`` does."""
    with open_clip(path, quick=True) as (_, _, header):
        return header


def describe(container: Any, stream: Any) -> Header:
    """Return the header facts of an open PyAV container."""
    known = stream.duration is not None and stream.time_base is not None
    # The context is named after the decoder (libdav1d); the canonical name is the codec's (av1).
    codec = stream.codec_context.codec.canonical_name
    duration = float(stream.duration * stream.time_base) if known else None
    return Header(duration, codec, bool(container.streams.audio), container.format.name.split(",")[0])


def av_message(error: BaseException) -> str:
    """Return FFmpeg's message without the path, which may be absolute."""
    return f"FFmpeg: {getattr(error, 'strerror', None) or error}"


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
        """Return that a clip is missing, and which folder is, or which video has the same name and another format."""
        folder = PurePosixPath(clip).parent.as_posix()
        if same := self._by_stem.get(_stem(nfc(clip))):
            return f"no file {clip!r}, but {', '.join(map(repr, same))}: rename it if it is an MP4, else convert it"
        if folder not in (".", *self._folders):
            return f"no file {clip!r}: there is no folder {folder!r}"
        return f"no file {clip!r}"

    def links_outside(self) -> list[str]:
        """Return links that lead out of the root: folders, and all files but clips, of which each is its row's fault.

        What is read through them has no part in the corpus's digest, so no version of the corpus would hold it.
        """
        names = [name for name in self._files.values() if PurePosixPath(name).suffix.lower() not in VIDEO]
        links = [self.root / name for name in [*self._folders, *names] if (self.root / name).is_symlink()]
        return [str(link) for link in links if not link.resolve().is_relative_to(self._home)]

    def unmentioned_videos(self, mentioned: Set[str]) -> list[str]:
        """Return the video files (NFC, sorted) that are not among the ``mentioned`` clips (NFC)."""
        return [name for name in self._videos if name not in mentioned]

    @cached_property
    def _videos(self) -> list[str]:
        """Return the video files, without the resource forks that macOS adds beside them."""
        paths = map(PurePosixPath, sorted(self._files))
        return [
            path.as_posix()
            for path in paths
            if path.suffix.lower() in VIDEO and not path.name.startswith("._") and "__MACOSX" not in path.parts
        ]

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        names: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._videos:
            names[_stem(name)].append(name)
        return dict(names)


def _stem(name: str) -> str:
    return name.rpartition(".")[0].lower()
