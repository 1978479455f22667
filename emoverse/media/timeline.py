"""List the packets of a video stream: how many pictures they show, when, and which depend on which."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from emoverse.media.probe import ClipError, av_message, raise_if_machine

# Containers whose packets carry the presentation time that the muxer wrote; AVI's are only counted.
TIMED: Final = ("mov,mp4", "matroska,webm")
INTRA: Final = frozenset({"mjpeg", "prores", "dnxhd"})  # codecs in which every picture is a key frame
H264_SLICES: Final = (1, 5)  # ITU-T H.264, table 7-1: slices of a non-IDR and of an IDR picture
H264_PARTITIONS: Final = (2, 3, 4)
HEVC_IDR: Final = (19, 20)  # ITU-T H.265, table 7-1
HEVC_LAST_SLICE: Final = 31
SLICE_HEADER: Final = 3  # bytes that are looked at
HEVC_RESERVED_REFERENCE: Final = 16  # types below are of non-reference pictures where they are even


@dataclass(frozen=True, slots=True)
class Contents:
    """The pictures in a packet: how many, whether they restart decoding (IDR), whether others may refer to them.

    A picture of ``layer`` above 0 is needed by pictures of higher layers only.
    """

    pictures: int
    restarts: bool
    reference: bool
    layer: int = 0


@dataclass(frozen=True, slots=True)
class PacketInfo:
    """One packet: times in the stream's time base; ``contents`` is None where its bytes cannot be understood."""

    pts: int | None
    duration: int
    key: bool
    discard: bool
    contents: Contents | None

    @property
    def time(self) -> int:
        """Return the presentation time of a packet that has one."""
        assert self.pts is not None
        return self.pts


@dataclass(frozen=True)
class Timeline:
    """All packets of a stream in the order of the file."""

    packets: list[PacketInfo]
    time_base: float
    frame_time: float | None  # seconds between pictures, as the container estimates it
    timed: bool

    @classmethod
    def read(cls, container: Any, stream: Any) -> Timeline:
        """Read through a container; raise ClipError when it cannot be read to its end."""
        understand = contents_of(stream)
        packets = []
        try:
            for p in container.demux(stream):
                if p.size:
                    contents = understand(memoryview(p)) if understand else None
                    packets.append(PacketInfo(p.pts, p.duration or 0, p.is_keyframe, p.is_discard, contents))
        except (OSError, ValueError) as error:  # PyAV's errors are some of both
            raise_if_machine(error)
            raise ClipError("clip-damaged", f"it cannot be read to its end: {av_message(error)}") from error
        rate = stream.average_rate
        timed = container.format.name.startswith(TIMED)
        return cls(packets, float(stream.time_base or 0), float(1 / rate) if rate else None, timed)

    def shown(self) -> Iterator[PacketInfo]:
        """Yield the packets that an edit list does not leave out."""
        return (packet for packet in self.packets if not packet.discard)

    def decodable(self) -> Iterator[PacketInfo]:
        """Yield the packets that should become a picture: from the first key frame on, and broken ones before it."""
        first = next((p.time for p in self.shown() if p.key and p.pts is not None), None)
        for p in self.shown():
            broken = self.timed and (p.contents is None or p.contents.pictures == 0)
            if p.pts is not None and (broken or first is None or p.pts >= first):
                yield p

    @property
    def count(self) -> int:
        """Return the number of packets that are shown: mostly, but not always, the number of pictures."""
        return sum(1 for _ in self.shown())

    @property
    def duration(self) -> float | None:
        """Return the seconds from the first picture's start to the last one's end, None where no times are known."""
        timed = [(packet.pts, packet.duration) for packet in self.shown() if packet.pts is not None]
        if not timed or len(timed) < self.count:
            return None
        first, last = min(timed)[0], max(timed)
        tail = last[1] * self.time_base
        if not last[1]:  # Matroska need not say: then the last picture stays as long as the others do on average
            tail = (last[0] - first) * self.time_base / (len(timed) - 1) if len(timed) > 1 else self.frame_time or 0.0
        seconds = (last[0] - first) * self.time_base + tail
        return seconds if seconds > 0 else None

    def times(self) -> list[int]:
        """Return the times of the pictures in display order; only for a proven timeline."""
        return sorted(packet.time for packet in self.packets)

    @property
    def proven(self) -> bool:
        """Return whether the packets alone show which picture is the n-th, and which pictures it depends on.

        Each packet holds one picture with a time of its own, none is left out by an edit list, and every restart is a
        picture before which nothing later and after which nothing earlier is shown.
        """
        if not (self.timed and self.packets and self.packets[0].contents):
            return False
        seen: set[int] = set()
        start = latest = None
        for p in self.packets:
            if p.pts is None or p.discard or p.pts in seen or p.contents is None or p.contents.pictures != 1:
                return False
            if p.contents.restarts:
                if latest is not None and p.pts <= latest:
                    return False
                start = p.pts
            if start is None or p.pts < start:
                return False
            latest = p.pts if latest is None else max(latest, p.pts)
            seen.add(p.pts)
        return True

    def needed(self, times: Collection[int]) -> set[int]:
        """Return the positions of the packets that the pictures at ``times`` depend on; only for a proven timeline."""
        layers = max(p.contents.layer for p in self.packets if p.contents)
        needed: set[int] = set()
        group: list[int] = []  # references since the last restart
        for position, p in enumerate(self.packets):
            assert p.contents is not None
            if p.contents.restarts:
                group = []
            if p.time in times:
                needed.update(group, [position])
                group = []
            if p.contents.reference or p.contents.layer < layers:
                group.append(position)
        return needed


def contents_of(stream: Any) -> Callable[[memoryview], Contents | None] | None:
    """Return a function that understands a stream's packets, None for a codec or a form of it that is not known."""
    codec = stream.codec_context.codec.canonical_name
    if codec in INTRA:
        return lambda _: Contents(1, restarts=True, reference=False)
    extradata = stream.codec_context.extradata or b""
    # Only the length-prefixed form of MP4 and Matroska (avcC and hvcC of ISO 14496-15): its boundaries are certain.
    if codec == "h264" and extradata[:1] == b"\x01" and len(extradata) > 6:
        return lambda data: _h264(data, (extradata[4] & 3) + 1)
    if codec == "hevc" and extradata[:1] == b"\x01" and len(extradata) > 22:
        return lambda data: _hevc(data, (extradata[21] & 3) + 1)
    return None


def _units(data: memoryview, prefix: int) -> Iterator[memoryview] | None:
    """Return the NAL units of a packet, None when their lengths do not add up."""
    units, start = [], 0
    while start + prefix < len(data):
        length = int.from_bytes(data[start : start + prefix], "big")
        start += prefix
        if length < 1 or start + length > len(data):
            return None
        units.append(data[start : start + length])
        start += length
    return iter(units) if start == len(data) else None


def _h264(data: memoryview, prefix: int) -> Contents | None:
    pictures, restarts, reference = 0, False, False
    units = _units(data, prefix)
    if units is None:
        return None
    for unit in units:
        kind = unit[0] & 31
        if kind in H264_PARTITIONS or (kind in H264_SLICES and len(unit) < SLICE_HEADER):
            return None
        if kind in H264_SLICES:
            pictures += unit[1] >> 7  # first_mb_in_slice is 0, which is coded as a single 1
            restarts = restarts or kind == H264_SLICES[1]
            reference = reference or bool(unit[0] & 0x60)
    return Contents(pictures, restarts, reference)


def _hevc(data: memoryview, prefix: int) -> Contents | None:
    pictures, restarts, reference, layer = 0, False, False, 0
    units = _units(data, prefix)
    if units is None:
        return None
    for unit in units:
        kind = unit[0] >> 1 & 63
        if kind <= HEVC_LAST_SLICE and len(unit) < SLICE_HEADER:
            return None
        if kind <= HEVC_LAST_SLICE:
            pictures += unit[2] >> 7  # first_slice_segment_in_pic_flag
            restarts = restarts or kind in HEVC_IDR
            reference = reference or kind >= HEVC_RESERVED_REFERENCE or kind % 2 == 1
            layer = (unit[1] & 7) - 1
    return Contents(pictures, restarts, reference, layer)
