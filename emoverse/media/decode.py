"""Read the frames of a clip with decord, and with PyAV where decord cannot."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from emoverse.media.probe import ClipError, Header, Probe, opened, pyav_text, tidy


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
    """Return the frame that stands for the whole clip: ``peak`` when the clip has it, the middle one otherwise."""
    if count < 1:
        raise ValueError("an empty clip has no still")
    return peak if peak is not None and 0 <= peak < count else count // 2


Frame = NDArray[np.uint8]
NOT_BY_DECORD: Final = frozenset({"av1"})  # decord 0.6.0 was built in 2021 without a decoder for it
# Codecs that mark the frames no other frame refers to. PyAV leaves these out, which decord cannot.
SKIPPING: Final = frozenset({"h264", "hevc"})
LONG: Final = 30.0  # seconds; in longer clips decord, whose decoder runs ahead in a thread, may hold many frames


class Clip(Protocol):
    """One open clip: the number of its frames, and frames in ascending order of index."""

    count: int

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Yield uint8 RGB ``(height, width, 3)`` for each index; indices ascend and do not repeat."""
        ...

    def close(self) -> None:
        """Free the file and the decoder."""
        ...


class DecordClip:
    """A clip read by decord."""

    def __init__(self, path: Path, container: Any) -> None:
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        # One thread: clips are short, and the pool already runs one process a core.
        self._reader: Any = decord.VideoReader(str(path), num_threads=1)
        self.count = len(self._reader)

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Yield the frames; decord seeks to the nearest key frame before each."""
        for index in indices:
            yield self._reader[index].asnumpy()

    def close(self) -> None:
        """Free the reader."""
        self._reader = None


class PyAVClip:
    """A clip read by PyAV: the packets' times are listed first, then frames are sought by time."""

    def __init__(self, path: Path, container: Any) -> None:
        self._container = container
        self._stream: Any = container.streams.video[0]
        self._stream.thread_type = "NONE"  # threads hold back frames, which costs more than it gains on short clips
        self._skips = self._stream.codec_context.codec.canonical_name in SKIPPING
        # Not the packets themselves: they hold the file's bytes.
        packets = [(p.pts, p.is_keyframe) for p in container.demux(self._stream) if p.size and not p.is_discard]
        times = [time for time, _ in packets]
        self._keys: list[int] = sorted(time for time, is_key in packets if is_key and time is not None)
        # Without times (some AVI files) the only index is the order of decoding.
        self._times: list[int] | None = None if None in times else sorted(times)
        if self._times is None:
            container.seek(0)
            self.count = sum(1 for _ in container.decode(self._stream))
        else:
            self.count = len(self._times)
            self._skips = self._skips and len(set(times)) == self.count

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Yield the frames, decoding on from the last one unless a key frame lies between."""
        if self._times is None:
            yield from self._counted(set(indices))
            return
        wanted = [(index, self._times[index]) for index in indices]
        for keys, run in groupby(wanted, lambda pair: bisect_right(self._keys, pair[1])):
            # Only a frame that was asked for may be late: before the first key frame the start is sought.
            yield from self._run(dict(run), self._keys[keys - 1] if keys else self._times[0])

    def _run(self, wanted: dict[int, int], start: int) -> Iterator[Frame]:
        """Yield the frames of (index -> time) pairs that follow the key frame at ``start``."""
        left = dict(wanted)
        # A broken stream may refer to what it says nobody refers to: then all is decoded.
        for skip in (True, False) if self._skips else (False,):
            for frame in self._decoded(start, set(left.values()), skip):
                index, time = next(iter(left.items()))
                if frame.pts != time:
                    break
                del left[index]
                yield upright(frame)
            if not left:
                return
        raise ClipError("clip-unreadable", f"pyav: frame {min(left)} of {self.count} could not be decoded")

    def _decoded(self, start: int, times: set[int], skip: bool) -> Iterator[Any]:
        """Yield the decoded frames at ``times``, as they come; with ``skip``, decode only what they depend on."""
        self._container.seek(start, stream=self._stream)
        context, last = self._stream.codec_context, max(times)
        for packet in self._container.demux(self._stream):
            context.skip_frame = "NONREF" if skip and packet.pts not in times else "DEFAULT"
            for frame in packet.decode():
                if frame.pts in times:
                    yield frame
                if frame.pts is not None and frame.pts >= last:
                    return

    def _counted(self, wanted: set[int]) -> Iterator[Frame]:
        self._container.seek(0)
        for number, frame in enumerate(self._container.decode(self._stream)):
            if number in wanted:
                yield upright(frame)
            if number >= max(wanted):
                return

    def close(self) -> None:
        """Leave the container to who opened it."""


def upright(frame: Any) -> Frame:
    """Return a PyAV frame as RGB, turned as its display matrix asks."""
    pixels: Frame = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # PyAV counts degrees counter-clockwise, as np.rot90 does
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


DECODERS: Final[dict[str, Callable[[Path, Any], Clip]]] = {"decord": DecordClip, "pyav": PyAVClip}


def read_frames(
    path: Path,
    choose: Callable[[int], Sequence[int]],
    each: Callable[[int, Frame], None],
    *,
    decoders: Sequence[str] = tuple(DECODERS),
    name: str = "",
) -> Probe:
    """Hand the frames that ``choose(count)`` names to ``each(index, frame)`` in ascending order; return the probe.

    One decoded frame is held at a time, so memory does not grow with the clip. When a decoder fails the next one starts
    over, and ``each`` may see an index twice. Raises ClipError, with ``name`` as its place, when none could.
    """
    try:
        with opened(path) as (container, header):
            said: dict[str, str] = {}
            for decoder in in_order(decoders, header):
                try:
                    return _read(path, container, decoder, header, choose, each)
                except ClipError as error:
                    said[error.detail] = error.reason
        reason = "clip-empty" if "clip-empty" in said.values() else "clip-unreadable"
        raise ClipError(reason, "; ".join(said) or f"no decoder for {header.codec}")
    except ClipError as error:
        raise ClipError(error.reason, error.detail, clip=name or path.name) from None


def in_order(decoders: Sequence[str], header: Header) -> list[str]:
    """Return the decoders that are to try a clip: decord first, but PyAV where it decodes or holds fewer frames."""
    able = [d for d in decoders if not (d == "decord" and header.codec in NOT_BY_DECORD)]
    pyav_first = header.codec in SKIPPING or (header.duration or 0.0) > LONG
    return sorted(able, key=lambda d: d != "pyav") if pyav_first else able


def _read(
    path: Path,
    container: Any,
    decoder: str,
    header: Header,
    choose: Callable[[int], Sequence[int]],
    each: Callable[[int, Frame], None],
) -> Probe:
    shape: tuple[int, ...] = (0, 0)
    try:
        with closing(DECODERS[decoder](path, container)) as clip:
            count = clip.count
            if count < 1:
                raise ClipError("clip-empty", "the video stream has no frames")
            wanted = sorted(set(choose(count)))
            for index, frame in zip(wanted, clip.frames(wanted), strict=True):
                shape = frame.shape
                each(index, frame)
    except ClipError:
        raise
    except Exception as error:  # decord raises DECORDError and RuntimeError, PyAV its FFmpegErrors and ValueError
        text = pyav_text(error) if decoder == "pyav" else f"decord: {error}"
        raise ClipError("clip-unreadable", tidy(text.replace(str(path), path.name))) from error
    return _probe(header, count, shape, decoder)


def _probe(header: Header, count: int, shape: tuple[int, ...], decoder: str) -> Probe:
    duration = header.duration or 0.0
    return Probe(
        duration=round(duration, 6),
        frames=count,
        fps=round(count / duration, 6) if duration > 0 else 0.0,
        height=shape[0],
        width=shape[1],
        codec=header.codec,
        rotation=header.rotation,
        has_audio=header.has_audio,
        decoder=decoder,
    )
