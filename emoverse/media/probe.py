"""Read what a clip's container says about it, without decoding a frame."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from emoverse.media.errors import ClipError


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
