"""Read the frames of a clip exactly as FFmpeg shows them.

The n-th frame is the n-th picture that decoding from the start yields: in display order, with edit lists and discarded
packets honoured. Nothing is ever sought. Where the packets prove which pictures a frame depends on, the others are not
decoded; everywhere else all are decoded and counted. docs/media.md has the evidence for both. There, decord can read
instead of PyAV (``media.decoder: decord``): where the packets prove the position of every picture its seeking is exact.

Whether a clip shows and plays anything (black, frozen, silent) is measured on the frames that are chosen anyway. Sound
is decoded only up to the first audible moment: for nearly every clip that is a packet or two, so it is known whether
all of a clip's sound is silent, but no share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emoverse.media.probe import ClipError, Header, Probe, av_message, open_clip, raise_if_machine, with_kind
from emoverse.media.timeline import Timeline

Decoder = Literal["pyav", "decord"]
# Decoders that withhold pictures until they can be whole; others show grey ones when the first packet is no key frame.
WITHHOLDS: Final = frozenset({"h264", "hevc"})
# Containers that carry what a decoder needs between the pictures, so that one can start receiving anywhere.
JOINED: Final = frozenset({"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v"})
# Codecs that decord shows exactly where the packets prove every position; in HEVC its seeking is off by some pictures.
EXACT_WITH_DECORD: Final = frozenset({"h264", "mjpeg", "prores", "dnxhd"})
HDR: Final = frozenset({16, 18})  # PQ (SMPTE 2084) and HLG (ARIB STD-B67), ITU-T H.273, table 3
Frame = NDArray[np.uint8]
# The defaults of FFmpeg's filters blackdetect and silencedetect.
DARK: Final = 0.10 * 255  # the brightest channel of a black pixel
BLACK_PIXELS: Final = 0.98  # share of black pixels in a black picture
SILENCE: Final = 0.001  # -60 dB: the largest sample of silence; full scale is 1
# A still picture that x264, x265 or VP9 coded again, at a key frame, differed by up to 23 at default quality. MPEG-4 at
# a low bit rate differs more, so the share of frozen frames is a lower bound. No mean is taken, as freezedetect does:
# only a mouth that moves changes some pixels by more than 100, but the mean by less than a still picture's noise.
CODING_NOISE: Final = 24  # of 255
SIDE: Final = 96  # points measured along the shorter side, at least
Choose = Callable[[int], Sequence[int]]
Keep = Callable[[int, Frame], None]


def uniform(count: int, frames: int) -> list[int]:
    """Return ``frames`` indices spread over ``count`` frames, one from the middle of each segment.

    This is ``get_index`` of InternVL2's model card (no bound, ``max_frame = count - 1``), so training shows the
    frames InternVL2 was trained to see. It counts frames, not seconds, for a variable frame rate too, as there.
    A clip shorter than ``frames`` repeats some. Indices are ascending and below ``count``.
    """
    if count < 1 or frames < 1:
        raise ValueError(f"cannot take {frames} of {count} frames")
    segment = (count - 1) / frames
    # Python's round and NumPy's both round halves to even, so the indices are the original's.
    return [int(segment / 2 + round(segment * index)) for index in range(frames)]


def still(count: int, peak: int | None) -> int:
    """Return the frame that represents the whole clip: ``peak`` when the clip has it, the middle one otherwise."""
    if count < 1:
        raise ValueError("an empty clip has no still")
    return peak if peak is not None and 0 <= peak < count else count // 2


def read_frames(path: Path, choose: Choose, keep: Keep, *, name: str = "", decoder: Decoder = "pyav") -> Probe:
    """Call ``keep(index, frame)`` for the frames that ``choose(count)`` names; return the probe.

    A frame is uint8 RGB ``(height, width, 3)``, upright, with square pixels. Memory does not grow with the clip.

    Args:
        path: The clip.
        choose: Returns the indices of the frames to keep from the number of frames. It may be called more than once,
            because the number is only estimated at first.
        keep: Receives the frames. It may see an index more than once, and indices that are not chosen in the end: the
            last call for an index of ``choose(probe.frames)`` counts.
        name: Name of the clip in messages, by default its file's.
        decoder: ``pyav`` or ``decord``.

    Raises:
        ClipError: The clip cannot be read, or pictures that it needs are missing or damaged.
    """
    try:
        with open_clip(path, quick=True) as (container, stream, header), with_kind(header):
            timeline = Timeline.read(container, stream)
        with with_kind(header):
            return _read(path, timeline, header, choose, keep, decoder)
    except ClipError as error:
        raise ClipError(error.reason, error.detail, clip=name or path.name) from None


def _read(path: Path, timeline: Timeline, header: Header, choose: Choose, keep: Keep, decoder: Decoder) -> Probe:
    count = timeline.count
    if not timeline.packets:
        raise ClipError("clip-empty", "the video stream has no frames")
    if timeline.proven:
        wanted = set(choose(count))
        with_decord = decoder == "decord" and header.codec in EXACT_WITH_DECORD
        if with_decord and (playback := _decode_with_decord(path, timeline, wanted, keep)) is not None:
            return _probe(timeline, header, count, playback)
        playback = _decode_needed(path, timeline, wanted, keep)
        if playback is not None:
            return _probe(timeline, header, count, playback)
    # The number of packets is only a guess of the number of pictures: count, and start over when it was wrong.
    while True:
        wanted = set(choose(count)) if count else set()
        playback = _decode_all(path, timeline, wanted, keep)
        if playback.count < 1:
            reason = "clip-unreadable" if playback.error else "clip-empty"
            raise ClipError(reason, playback.error or "the video stream has no frames")
        if playback.count == count:
            break
        count = playback.count
    if playback.lost or playback.damaged & wanted:
        share = (len(playback.damaged) + playback.lost) / (count + playback.lost)
        first = f"; {playback.error}" if playback.error else ""
        raise ClipError("clip-damaged", f"{share:.1%} of its pictures are missing or not whole{first}")
    return _probe(timeline, header, count, playback)


@dataclass
class Playback:
    """The result of decoding: ``damaged`` are indices of pictures that are not whole, ``lost`` counts missing ones."""

    count: int = 0
    lost: int = 0
    damaged: set[int] = field(default_factory=set)
    error: str = ""
    shape: tuple[int, ...] = (0, 0)
    rotation: int = 0
    transfer: int = 0  # the transfer characteristic (H.273) of the first picture
    decoder: Decoder = "pyav"

    def show(self, frame: Any, stream: Any) -> Frame:
        """Return the picture as it is shown, and note its size and orientation."""
        shown = upright(frame, stream.sample_aspect_ratio or 1)
        if not self.shape[0]:
            self.shape, self.rotation, self.transfer = shown.shape, rotation_of(frame), int(frame.color_trc or 0)
        return shown


def _decode_with_decord(path: Path, timeline: Timeline, wanted: Collection[int], keep: Keep) -> Playback | None:
    """Read the wanted frames with decord; return None where PyAV has to read them.

    Only for a proven timeline. decord ignores display matrices and the shape of pixels, so PyAV decodes the first
    picture to see that there is nothing to turn, mirror or stretch. decord reports no damage.

    Raises:
        ImportError: The package decord is not installed: the machine's fault, not the clip's.
    """
    import decord

    playback = Playback(decoder="decord")
    with open_clip(path, quick=True) as (container, stream, _):
        first = next(iter(container.decode(stream)), None)
        if first is None or first.is_corrupt or first.interlaced_frame:
            return None
        if not np.array_equal(playback.show(first, stream), first.to_ndarray(format="rgb24")):
            return None
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        if len(reader) != timeline.count:
            return None
        for index in sorted(wanted):
            frame: Frame = reader[index].asnumpy()
            if frame.shape != playback.shape:
                return None
            keep(index, frame)
    except (decord.DECORDError, IndexError, RuntimeError):
        return None
    return playback


def _decode_needed(path: Path, timeline: Timeline, wanted: Collection[int], keep: Keep) -> Playback | None:
    """Decode only what the wanted frames depend on; return None when the decoder did not show exactly what it should.

    Then something about the file is not what its packets say, and only counting from the start gives the truth.
    """
    times = timeline.times()
    indices = {times[index]: index for index in wanted}
    send = timeline.needed(indices)
    expected = sorted(timeline.packets[position].time for position in send)
    playback = Playback()
    shown: list[int] = []

    def take(frames: Sequence[Any]) -> bool:
        for frame in frames:
            if frame.is_corrupt or frame.interlaced_frame or frame.pts is None:
                return False
            shown.append(frame.pts)
            if frame.pts in indices:
                keep(indices[frame.pts], playback.show(frame, stream))
        return True

    with open_clip(path, quick=True) as (container, stream, _):
        stream.thread_type = "NONE"  # threads hold back frames, which costs more than it gains on short clips
        last = max(send)
        try:
            for position, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
                if packet.pts != timeline.packets[position].pts:
                    return None
                if position in send and not take(packet.decode()):
                    return None
                if position == last:
                    break
            if not take(stream.codec_context.decode(None)):
                return None
        except (av.error.FFmpegError, ValueError, TypeError) as error:
            raise_if_machine(error, decoding=True)
            return None
    return playback if shown == expected else None


def _decode_all(path: Path, timeline: Timeline, wanted: Collection[int], keep: Keep) -> Playback:
    """Decode from the first packet to the last, and note every picture that is missing or not whole."""
    playback = Playback()
    times: set[int] = set()
    with open_clip(path) as (container, stream, header):
        stream.thread_type = "NONE"
        begun = header.container not in JOINED  # whether a key frame was sent
        damage = Damage(active=header.codec not in WITHHOLDS and not timeline.packets[0].key)
        packets = iter(container.demux(stream))
        while True:
            packet, frames = None, []
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                begun = begun or packet.is_keyframe
                frames = packet.decode()
            except (av.error.FFmpegError, ValueError, TypeError) as error:
                raise_if_machine(error, decoding=packet is not None)
                playback.error = playback.error or av_message(error)
                # What comes before the first key frame of a recorded broadcast cannot be shown: FFmpeg skips it.
                if begun:
                    playback.lost += 1
                    damage.start(None if packet is None else packet.pts)
                if packet is None:
                    break
            for frame in frames:
                if damage.covers(frame):
                    playback.damaged.add(playback.count)
                if frame.pts is not None:
                    times.add(frame.pts)
                if playback.count in wanted:
                    keep(playback.count, playback.show(frame, stream))
                playback.count += 1
    if header.codec == "hevc" and times:  # its decoder passes over broken packets without an error
        playback.lost += sum(p.pts not in times for p in timeline.decodable())
    return playback


@dataclass
class Damage:
    """Whether pictures are whole: damage spreads from picture to picture until the next key frame."""

    active: bool = False
    since: int | None = None

    def start(self, time: int | None) -> None:
        """Note damage in the packet at ``time``."""
        self.active, self.since = True, time

    def covers(self, frame: Any) -> bool:
        """Return whether a frame, given in display order, is damaged."""
        if frame.is_corrupt:
            self.start(frame.pts)
        elif self.active and frame.key_frame:
            self.active = self.since is not None and frame.pts is not None and frame.pts <= self.since
        return self.active


def display_matrix(frame: Any) -> tuple[float, float, float, float]:
    """Return (a, b, c, d) of a frame's display matrix: x' = a x + c y, y' = b x + d y (ISO 14496-12, 8.3.2)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1.0, 0.0, 0.0, 1.0
    values = np.frombuffer(bytes(data), np.int32)[:5] / 65536
    return float(values[0]), float(values[1]), float(values[3]), float(values[4])


def rotation_of(frame: Any) -> int:
    """Return the degrees (0..359, clockwise) by which a player turns a frame, or a mirrored frame's x axis."""
    a, b, _, _ = display_matrix(frame)
    return round(math.degrees(math.atan2(b, a))) % 360


def upright(frame: Any, aspect: Any = 1) -> Frame:
    """Return a decoded frame as RGB with square pixels, turned and mirrored as its display matrix asks.

    ``aspect`` is the width of a stored pixel over its height. As players do, the width is changed.
    """
    pixels: Frame
    if aspect == 1 and frame.format.name == "yuv420p" and frame.width % 16 == 0:
        # The same values with the planes apart in memory, as resizing wants them: it saves a copy of each frame.
        # Other widths lose their last columns in swscale's conversion to planes.
        green, blue, red = (
            np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
            for plane in frame.reformat(format="gbrp").planes
        )
        pixels = np.stack([red, green, blue]).transpose(1, 2, 0)
    else:
        pixels = frame.to_ndarray(format="rgb24", width=max(1, round(frame.width * aspect)))
    a, b, c, d = display_matrix(frame)
    turn = math.degrees(math.atan2(b, a))
    if abs(turn - 90 * round(turn / 90)) > 1:  # FFmpeg's `rotate` filter: same size, black corners
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).rotate(-turn, Image.Resampling.BILINEAR))
    if abs(a) < abs(b):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _probe(timeline: Timeline, header: Header, count: int, playback: Playback) -> Probe:
    duration = timeline.duration
    return Probe(
        duration=None if duration is None else round(duration, 6),
        frames=count,
        fps=round(count / duration, 6) if duration else None,
        height=playback.shape[0],
        width=playback.shape[1],
        codec=header.codec,
        rotation=playback.rotation,
        has_audio=header.has_audio,
        decoder=playback.decoder,
        hdr=playback.transfer in HDR,
    )


def thumbnail(frame: Frame) -> Frame:
    """Return every n-th pixel of a frame as ``(3, height, width)``, at least 96 along a side that has as many."""
    step = max(1, min(frame.shape[:2]) // SIDE)
    return np.ascontiguousarray(frame[::step, ::step].transpose(2, 0, 1))


def black_share(thumbnails: Mapping[int, Frame], chosen: Sequence[int]) -> float:
    """Return the share of the chosen frames (indices, repeats count once) that are black."""
    shares = [(thumbnails[index].max(axis=0) <= DARK).mean() for index in sorted(set(chosen))]
    return float(np.mean([share >= BLACK_PIXELS for share in shares]))


def frozen_share(thumbnails: Mapping[int, Frame], chosen: Sequence[int]) -> float | None:
    """Return the share of the chosen frames that equal the chosen one before them, of those that have one.

    None where only one frame was chosen.
    """
    ordered = [thumbnails[index] for index in sorted(set(chosen))]
    equal = [np.max(np.maximum(a, b) - np.minimum(a, b)) <= CODING_NOISE for a, b in pairwise(ordered)]
    return float(np.mean(equal)) if equal else None


def is_silent(path: Path) -> bool | None:
    """Return whether the whole sound track is silent; None without one, or when it cannot be decoded.

    No step needs the sound, so a broken track is no fault of the clip.

    Raises:
        MemoryError: The machine is out of memory.
        OSError: The machine is at fault in another way.
    """
    heard = None
    try:
        with open_clip(path, quick=True) as (container, _, _):
            stream = container.streams.best("audio")
            if stream is None or stream.codec_context is None:
                return None
            for frame in container.decode(stream):
                if loudest(frame) > SILENCE:
                    return False
                heard = True
    except (av.error.FFmpegError, ValueError, TypeError, ClipError) as error:
        raise_if_machine(error, decoding=True)
        return None
    return heard


def loudest(frame: Any) -> float:
    """Return the largest absolute sample of an audio frame, full scale is 1."""
    samples: NDArray[Any] = frame.to_ndarray()
    if samples.size == 0:
        return 0.0
    if samples.dtype == np.uint8:
        return float(np.abs(samples.astype(np.int16) - 128).max() / 128)
    largest = float(np.abs(samples.astype(np.float64)).max())
    return largest if samples.dtype.kind == "f" else largest / -float(np.iinfo(samples.dtype).min)
