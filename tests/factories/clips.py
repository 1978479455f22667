"""Make small clips of every kind that validation must survive."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

WHOLE_RATES = frozenset(
    {"mpeg2video", "mpeg1video", "libtheora", "wmv2", "libxvid"}
)  # encoders that know whole rates only
TICKS = 12_288  # time base of the video stream, divisible by the usual frame rates


def picture(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """Draw frame number ``index``: colour blocks that move, and a corner that tells up from down."""
    rng = np.random.default_rng(7)
    blocks = rng.integers(40, 216, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    image = blocks.repeat(16, 0).repeat(16, 1)[:height, :width]
    image = np.roll(image, 3 * index, axis=1)
    image[: height // 4, : width // 4] = (250, 20, 20)
    return np.ascontiguousarray(image)


def numbered(number: int, width: int = 128, height: int = 64) -> NDArray[np.uint8]:
    """Draw a picture whose eight vertical stripes spell a number in binary."""
    bits = [number >> bit & 1 for bit in range(7, -1, -1)]
    row = np.repeat(np.where(bits, 215, 40), width // 8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8)


def number_in(image: NDArray[np.uint8]) -> int:
    """Read the number back from a picture of any size."""
    height, width = image.shape[:2]
    row = image[height // 4 : 3 * height // 4].astype(float).mean((0, 2))
    stripes = [row[int((bit + 0.35) * width / 8) : int((bit + 0.65) * width / 8)].mean() for bit in range(8)]
    return sum(int(value > 128) << 7 - bit for bit, value in enumerate(stripes))


def write_clip(
    path: Path,
    frames: int = 24,
    *,
    size: tuple[int, int] = (160, 96),
    fps: int = 24,
    codec: str = "libx264",
    times: Sequence[int] | None = None,
    key_every: int = 12,
    rotation: int = 0,
    matrix: tuple[int, int, int, int] | None = None,
    aspect: tuple[int, int] | None = None,
    sound: bool = False,
    seconds_of_sound: float | None = None,
    faststart: bool = False,
    options: Mapping[str, str] | None = None,
    pixels: str = "yuv420p",
    draw: Callable[[int, int, int], NDArray[np.uint8]] = picture,
    volume: float = 0.2,
) -> Path:
    """Write a clip; ``times`` are ticks of each frame, ``rotation`` degrees for the player to turn it clockwise.

    ``matrix`` is a, b, c, d of the display matrix, ``aspect`` width and height of a pixel, ``options`` the encoder's.
    ``draw(index, width, height)`` returns a picture, ``volume`` is the largest sample of the sound, 1 at most.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    options_of_file = {"movflags": "faststart"} if faststart else {}
    with _priority_kept(), av.open(str(path), "w", options=options_of_file) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        base = Fraction(1, fps if codec in WHOLE_RATES else TICKS)
        stream.codec_context.time_base = base
        stream.codec_context.gop_size = key_every
        stream.codec_context.thread_count = 1
        stream.options = dict(options or {})
        if rotation:
            stream.set_display_rotation(-rotation)
        if matrix:
            a, b, c, d = (value << 16 for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        if aspect:
            stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
        audio = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(index, *size), format="rgb24")
            frame.pts = times[index] if times else index * base.denominator // fps
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            _hum(container, audio, seconds=seconds_of_sound or frames / fps, volume=volume)
    return path


def played(path: Path) -> list[NDArray[np.uint8]]:
    """Return all frames of a clip, decoded from the first packet to the last by FFmpeg's libraries, as RGB."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.best("video"))]


@contextmanager
def _priority_kept() -> Iterator[None]:
    """Undo what SVT-AV1 does where root calls it: it gives the calling thread real-time priority 99.

    All that the tests start from there inherits it; a browser then takes every core and cannot even be killed.
    """
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def write_sound_only(path: Path) -> Path:
    """Write an MP4 file that holds nothing but sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        _hum(container, container.add_stream("aac", rate=16_000, layout="mono"), seconds=1.0)
    return path


def write_no_frames(path: Path) -> Path:
    """Write an MP4 file with a video track that has no frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        container.start_encoding()
    return path


def cut(path: Path, share: float) -> Path:
    """Keep only the first ``share`` of a file's bytes."""
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


def remux_from(source: Path, path: Path, ticks: int) -> Path:
    """Copy packets so that the clip starts ``ticks`` later, by an edit list, as ``ffmpeg -ss ... -c copy`` does."""
    with av.open(str(source)) as old, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as new:
        origin = old.streams.video[0]
        stream = new.add_stream_from_template(origin)
        for packet in old.demux(origin):
            if packet.dts is None:
                continue
            packet.stream = stream
            shift = int(ticks * origin.time_base.denominator / TICKS)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            new.mux(packet)
    return path


def write_negative_count(path: Path) -> Path:
    """Write a clip with a negative count of samples, on which some decoders abort their whole process."""
    write_clip(path, sound=True, faststart=True)
    blob = bytearray(path.read_bytes())
    blob[blob.index(b"stts") + 12] = 0x80  # the sign of the first entry's sample count, ISO 14496-12, 8.6.1.2
    path.write_bytes(blob)
    return path


def write_endless(path: Path, frames: int = 10_000) -> Path:
    """Write large frames behind a single key frame, so that reading the last one means decoding all.

    That takes 13 s of a core of 2024 or so; no test waits for it.
    """
    source = write_clip(path.with_name("source.mp4"), 24, codec="mpeg4", size=(1920, 1088), key_every=1000)
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        packets = [packet for packet in old.demux(video=0) if packet.size]
        stream = new.add_stream_from_template(old.streams.video[0])
        step = packets[1].dts - packets[0].dts
        for number in range(frames):
            packet = packets[0] if number == 0 else av.Packet(bytes(packets[1 + number % (len(packets) - 1)]))
            packet.stream, packet.time_base = stream, old.streams.video[0].time_base
            packet.pts = packet.dts = number * step
            packet.duration = step
            new.mux(packet)
    source.unlink()
    return path


def write_openface(
    path: Path, intensities: Sequence[float], *, frames: int = 0, confidence: float = 0.98, spaces: bool = True
) -> Path:
    """Write an OpenFace 2 table (``-aus``) whose AU12 follows ``intensities``, one value a frame; others are 0.1.

    Up to ``frames`` frames, 24 a second, AU12 is 0 after these values.
    """
    intensities = [*intensities, *[0.0] * (frames - len(intensities))]
    from emoverse.media.action_units import UNITS

    gap = ", " if spaces else ","
    lines = [gap.join(["frame", "face_id", "timestamp", "confidence", "success", *UNITS])]
    for index, value in enumerate(intensities):
        units = [f"{value if unit == 'AU12_r' else 0.1:.2f}" for unit in UNITS]
        lines.append(gap.join([str(index + 1), "0", f"{index / 24:.3f}", f"{confidence:.2f}", "1", *units]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def _hum(
    container: av.container.OutputContainer, stream: av.AudioStream, *, seconds: float, volume: float = 0.2
) -> None:
    for block in range(int(seconds * 16_000) // 1024):
        wave = np.sin(np.arange(block * 1024, (block + 1) * 1024) * 0.05).astype(np.float32)[None] * volume
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, block * 1024, Fraction(1, 16_000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
