"""Read frames of a clip by index: decord first, PyAV for what decord cannot read, one error type.

Both give the same pixels (a contract test holds them to it): RGB as shown, the rotation in the metadata applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from emoverse.media.errors import ClipError, tidy
from emoverse.media.probe import Header, Probe, describe, pyav_text, read_header

Frame = NDArray[np.uint8]
NOT_BY_DECORD: Final = frozenset({"av1"})  # decord 0.6.0 was built in 2021 without a decoder for it


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

    def __init__(self, path: Path) -> None:
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

    def __init__(self, path: Path) -> None:
        import av

        self._container = av.open(str(path), metadata_errors="ignore")
        self._stream: Any = self._container.streams.video[0]
        self._stream.thread_type = "NONE"  # threads hold back frames, which costs more than it gains on short clips
        self.header = describe(self._container)
        packets = [p for p in self._container.demux(self._stream) if p.size and not p.is_discard]
        times = [packet.pts for packet in packets]
        self._keys: list[int] = sorted(p.pts for p in packets if p.is_keyframe and p.pts is not None)
        # Without times (some AVI files) the only index is the order of decoding.
        self._times: list[int] | None = None if None in times else sorted(times)
        if self._times is None:
            self._container.seek(0)
            self.count = sum(1 for _ in self._container.decode(self._stream))
        else:
            self.count = len(self._times)

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Yield the frames, decoding on from the last one unless a key frame lies between."""
        if not indices:
            return
        if self._times is None:
            yield from self._counted(set(indices))
            return
        decoded: Iterator[Any] = iter(())
        place: int | None = None
        for index in indices:
            wanted = self._times[index]
            key = max((k for k in self._keys if k <= wanted), default=None)
            if place is None or (key is not None and key > place):
                # Only a frame that was asked for may be late: before the first key frame the start is sought.
                self._container.seek(key if key is not None else self._times[0], stream=self._stream)
                decoded = self._container.decode(self._stream)
            frame = next((f for f in decoded if f.pts is not None and f.pts >= wanted), None)
            if frame is None or frame.pts != wanted:
                raise ClipError("clip-unreadable", f"pyav: frame {index} of {self.count} could not be decoded")
            place = wanted
            yield upright(frame)

    def _counted(self, wanted: set[int]) -> Iterator[Frame]:
        self._container.seek(0)
        for number, frame in enumerate(self._container.decode(self._stream)):
            if number in wanted:
                yield upright(frame)
            if number >= max(wanted):
                return

    def close(self) -> None:
        """Close the container."""
        self._container.close()


def upright(frame: Any) -> Frame:
    """Return a PyAV frame as RGB, turned as its display matrix asks."""
    pixels: Frame = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # PyAV counts degrees counter-clockwise, as np.rot90 does
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


DECODERS: Final[dict[str, Callable[[Path], Clip]]] = {"decord": DecordClip, "pyav": PyAVClip}


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
        header = read_header(path)
        able = [d for d in decoders if not (d == "decord" and header.codec in NOT_BY_DECORD)]
        said: dict[str, str] = {}
        for decoder in able:
            try:
                return _read(path, decoder, header, choose, each)
            except ClipError as error:
                said[error.detail] = error.reason
        reason = "clip-empty" if set(said.values()) == {"clip-empty"} else "clip-unreadable"
        raise ClipError(reason, "; ".join(said) or f"no decoder for {header.codec}")
    except ClipError as error:
        raise ClipError(error.reason, error.detail, clip=name or path.name) from None


def _read(
    path: Path,
    decoder: str,
    header: Header,
    choose: Callable[[int], Sequence[int]],
    each: Callable[[int, Frame], None],
) -> Probe:
    shape: tuple[int, ...] = (0, 0)
    try:
        with closing(DECODERS[decoder](path)) as clip:
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
