"""Check from a file's structure whether it is complete.

A half-finished download decodes without an error up to its end, and every frame index would then mean another moment.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
