"""Open a clip, check from its structure whether it is whole, and read its properties without decoding it.

A half-finished download decodes without an error up to its end, and every frame index would then mean another moment.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emoverse.errors import UserError

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
MP4_FIRST: Final = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot")
MP4_LATER: Final = (
    *MP4_FIRST,
    b"moof",
    b"mfra",
    b"sidx",
    b"ssix",
    b"emsg",
    b"prft",
    b"meta",
    b"udta",
    b"uuid",
    b"PICT",
)
SEGMENT: Final = 0x18538067  # RFC 8794 and RFC 9559: the two elements of Matroska that are walked into
CLUSTER: Final = 0x1F43B675
ASF_FILE_PROPERTIES: Final = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_BROADCAST: Final = 1  # flag: the size in the header is not valid
PACK: Final = b"\x00\x00\x01\xba"  # ISO 13818-1
SYSTEM_END: Final = b"\x00\x00\x01\xb9"
# What the system refuses, whatever the file is like.
MACHINE_ERRNOS: Final = frozenset(
    {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.ESTALE}
)
# Containers of one file each: a playlist would make FFmpeg open whatever it names.
CONTAINERS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,gif,ivf,h264,hevc,obu,vc1,mjpeg,"
    "mxf,dv,rm,nut,wtv,yuv4mpegpipe,swf,nsv,apng,mp3,aac,wav,flac"
)
STILLS: Final = "jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe,gif_pipe"
COVERS: Final = 0x400 | 0x800 | 0x100000  # AV_DISPOSITION_ATTACHED_PIC, _TIMED_THUMBNAILS, _STILL_IMAGE of FFmpeg


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


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file: a reason of ``probe.REASONS`` and a sentence."""

    reason: str
    detail: str


def is_mp4(path: Path) -> bool:
    """Return whether a file begins as those of the MP4 and QuickTime family do."""
    with path.open("rb") as handle:
        return handle.read(8)[4:] in MP4_FIRST


def check_whole(path: Path) -> Fault | None:
    """Return what a file lacks by its own header, None when nothing is missing or its container does not say.

    The file must not be empty.
    """
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return next((check(data) for _, begins, check in CHECKS if begins(data)), None)


def container_of(path: Path) -> str:
    """Return FFmpeg's name of a file's container by its first bytes, "" for one not known here.

    The file must not be empty.
    """
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return next((name for name, begins, _ in CHECKS if begins(data)), "")


def _lacks(what: str, start: int, end: int, data: mmap.mmap) -> Fault:
    missing = end - len(data)
    return Fault("clip-truncated", f"{what} at byte {start} has {end - start:,} bytes, the file lacks {missing:,}")


def _mp4(data: mmap.mmap) -> Fault | None:
    start = 0
    seen: set[bytes] = set()
    while start + 8 <= len(data):
        length, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        if kind not in MP4_LATER and {b"moov", b"mdat"} <= seen:
            return None  # appended bytes, which players ignore
        if length == 1:  # a 64-bit length follows the name
            length = int.from_bytes(data[start + 8 : start + 16], "big")
        elif length == 0:  # the box reaches to the end of the file
            length = len(data) - start
        if length < 8:
            return Fault("clip-unreadable", f"a broken box at byte {start}")
        if start + length > len(data):
            return _lacks(f"box {kind.decode('latin-1')!r}", start, start + length, data)
        seen.add(kind)
        start += length
    if b"moov" not in seen and b"mdat" in seen:
        return Fault("clip-truncated", "it ends before its index (the moov box)")
    return None


def _matroska(data: mmap.mmap) -> Fault | None:
    start, end = 0, len(data)
    while start < end:
        if data[start] == 0:
            return Fault("clip-damaged", f"an invalid element at byte {start}")
        id_length = 9 - data[start].bit_length()
        at = start + id_length
        if at >= len(data) or data[at] == 0:
            return None if at >= len(data) else Fault("clip-damaged", f"an invalid element at byte {start}")
        size_length = 9 - data[at].bit_length()
        element = int.from_bytes(data[start:at], "big")
        size = int.from_bytes(data[at : at + size_length], "big") & ((1 << 7 * size_length) - 1)
        unknown = size == (1 << 7 * size_length) - 1  # written live
        body = at + size_length
        if not unknown and body + size > len(data):
            return _lacks(f"element {element:#x}", start, body + size, data)
        if element == SEGMENT:
            end = len(data) if unknown else body + size
        if element not in (SEGMENT, CLUSTER):
            if unknown:
                return None
            body += size
        start = body
    return None


def _avi(data: mmap.mmap) -> Fault | None:
    start = 0
    while data[start : start + 4] == b"RIFF":  # OpenDML files have several
        end = start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")
        if end > len(data):
            return _lacks("chunk RIFF", start, end, data)
        if end == start + 8:  # never completed: its length is unknown
            return None
        start = end + end % 2
    return None


def _flv(data: mmap.mmap) -> Fault | None:
    at = data.find(b"\x00\x08filesize\x00", 0, 4096)  # a number of the onMetaData tag
    if at >= 0 and (size := struct.unpack(">d", data[at + 11 : at + 19])[0]) > len(data):
        return Fault("clip-truncated", f"its header says {size:,.0f} bytes, the file lacks {size - len(data):,.0f}")
    start = int.from_bytes(data[5:9], "big") + 4
    while start + 11 <= len(data):
        end = start + 11 + int.from_bytes(data[start + 1 : start + 4], "big") + 4
        if end > len(data):
            return _lacks("tag", start, end, data)
        start = end
    return None if start == len(data) else _lacks("tag", start, start + 11, data)


def _transport(data: mmap.mmap) -> Fault | None:
    width = 192 if data[0] != 0x47 else 188
    rest = len(data) % width
    return Fault("clip-truncated", f"it ends after {rest} of a packet's {width} bytes") if rest else None


def _is_transport(data: mmap.mmap) -> bool:
    return any(all(data[at : at + 1] == b"\x47" for at in range(first, first + 5 * width, width))
               for first, width in ((0, 188), (4, 192)))  # fmt: skip


def _program(data: mmap.mmap) -> Fault | None:
    start = 0
    while start + 6 <= len(data) and data[start : start + 3] == PACK[:3]:
        if data[start : start + 4] == SYSTEM_END:
            return None
        if data[start : start + 4] != PACK:
            end = start + 6 + int.from_bytes(data[start + 4 : start + 6], "big")
        elif start + 14 > len(data):
            end = start + 14
        else:  # MPEG-2's pack header may be stuffed, MPEG-1's has 12 bytes
            end = start + (14 + (data[start + 13] & 7) if data[start + 4] >> 6 == 1 else 12)
        if end > len(data):
            return _lacks("packet", start, end, data)
        start = end
    return None


def _ogg(data: mmap.mmap) -> Fault | None:
    start = 0
    while data[start : start + 4] == b"OggS":
        segments = data[start + 26] if start + 26 < len(data) else 0
        end = start + 27 + segments + sum(data[start + 27 : start + 27 + segments])
        if end > len(data):
            return _lacks("page", start, end, data)
        start = end
    return None


def _asf(data: mmap.mmap) -> Fault | None:
    at = data.find(ASF_FILE_PROPERTIES, 0, 65_536)
    if at < 0 or at + 92 > len(data) or data[at + 88] & ASF_BROADCAST:
        return None
    size = int.from_bytes(data[at + 40 : at + 48], "little")
    return _lacks("its header's file", 0, size, data) if size > len(data) else None


Begins = Callable[[mmap.mmap], bool]
CHECKS: Final[tuple[tuple[str, Begins, Callable[[mmap.mmap], Fault | None]], ...]] = (
    ("mov", lambda data: data[4:8] in MP4_FIRST, _mp4),
    ("matroska", lambda data: data[:4] == b"\x1a\x45\xdf\xa3", _matroska),
    ("avi", lambda data: data[:4] == b"RIFF" and data[8:12] == b"AVI ", _avi),
    ("flv", lambda data: data[:3] == b"FLV", _flv),
    ("mpegts", _is_transport, _transport),
    ("mpeg", lambda data: data[:4] == PACK, _program),
    ("ogg", lambda data: data[:4] == b"OggS", _ogg),
    ("asf", lambda data: data[:4] == bytes.fromhex("3026b275"), _asf),
)
