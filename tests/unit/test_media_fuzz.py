"""Random clips, cut by copying packets: every frame is the one that decoding from the start shows.

``EMOVERSE_FUZZ_CLIPS`` sets the number of clips (12 by default; 500 take some minutes).
"""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from emoverse.media.decode import read_frames, still, uniform
from emoverse.media.probe import ClipError
from tests.factories.clips import number_in, numbered, played

CLIPS = int(os.environ.get("EMOVERSE_FUZZ_CLIPS", "12"))
# codec -> containers, and whether B-frames can be asked for
CODECS = {
    "libx264": (("mp4", "mkv", "mov", "ts", "flv", "avi"), True),
    "libx265": (("mp4", "mkv", "ts"), True),
    "mpeg4": (("mp4", "mkv", "avi", "mov"), True),
    "mpeg2video": (("mpg", "ts", "mp4", "mkv"), True),
    "libvpx-vp9": (("webm", "mkv", "mp4"), False),
    "libvpx": (("webm", "mkv"), False),
    "mjpeg": (("avi", "mov", "mkv"), False),
    "msmpeg4": (("avi",), False),
    "wmv2": (("asf", "avi"), False),
}


def write_random(path: Path, rng: np.random.Generator) -> str:
    """Write a clip of a random kind, cut it by copying in half of all cases; return what it is."""
    codec = str(rng.choice(list(CODECS)))
    containers, has_b = CODECS[codec]
    suffix = str(rng.choice(containers))
    frames, gop, fps = int(rng.integers(1, 70)), int(rng.integers(1, 40)), int(rng.choice([24, 25, 30, 50]))
    options = {"bf": str(rng.integers(0, 4))} if has_b else {}
    if codec == "libx264":
        options |= {"preset": "veryfast", "x264-params": str(rng.choice(["open-gop=1", "open-gop=0", "b-pyramid=0"]))}
        options["x264-params"] += str(rng.choice(["", ":slices=3", ":tff=1", ":intra-refresh=1"]))
    if codec == "libx265":
        options |= {"preset": "ultrafast", "x265-params": f"log-level=none:open-gop={rng.integers(2)}:keyint={gop}"}
    if codec.startswith("libvpx"):
        options |= {
            "deadline": "realtime",
            "cpu-used": "8",
            "auto-alt-ref": "1",
            "lag-in-frames": str(rng.integers(20)),
        }
    variable = bool(rng.integers(2)) and suffix in ("mkv", "webm", "mp4") and codec in ("libx264", "libvpx-vp9")
    times = np.cumsum(rng.integers(1, 4 if variable else 2, frames)) - 1
    whole = path.with_name(f"{path.stem}-whole.{suffix}")
    with av.open(str(whole), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = 128, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24")
            frame.pts, frame.time_base = int(times[index]), Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    kind = f"{codec} {suffix} frames={frames} gop={gop} fps={fps} variable={variable} {options}"
    if not rng.integers(2):
        whole.rename(path)
        return kind
    start, end = sorted(rng.integers(0, int(times[-1]) + 2, 2) / fps)
    target = str(rng.choice(containers))
    try:
        copy_between(whole, path, target, float(start), float(end))
    except av.error.FFmpegError:  # this container does not take these packets
        path.unlink(missing_ok=True)
    if not path.exists():  # no packet lies between the two times, so nothing was written
        whole.rename(path)
    return f"{kind}, cut to {target} from {start:.2f} to {end:.2f} s"


def copy_between(source: Path, path: Path, suffix: str, start: float, end: float) -> None:
    """Copy the packets from the key frame before ``start`` to ``end``, as ``ffmpeg -ss START -to END -c copy`` does."""
    formats = {"mkv": "matroska", "ts": "mpegts", "mpg": "mpeg"}
    options = {"avoid_negative_ts": "disabled"} if suffix in ("mp4", "mov") else {}
    with (
        av.open(str(source)) as old,
        av.open(str(path), "w", format=formats.get(suffix, suffix), options=options) as new,
    ):
        origin = old.streams.video[0]
        stream = new.add_stream_from_template(origin)
        old.seek(int(start / origin.time_base), stream=origin)
        shift = int(start / origin.time_base) if options else None
        for packet in old.demux(origin):
            if not packet.size or packet.dts is None or packet.pts is None or packet.dts * origin.time_base > end + 0.5:
                continue
            shift = packet.dts if shift is None else shift
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = stream
            new.mux(packet)


@pytest.mark.parametrize("seed", range(CLIPS))
def test_no_frame_of_a_random_clip_is_silently_wrong(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path / "clip"
    kind = write_random(path, rng)
    try:
        want = [number_in(frame) for frame in played(path)]
    except av.error.FFmpegError:
        want = []
    for choose in (range, lambda count: [*uniform(count, int(rng.integers(1, 9))), still(count, None)]):
        frames: dict[int, np.ndarray] = {}
        indices: list[int] = []

        def remember(count: int, choose=choose, indices=indices) -> list[int]:
            indices[:] = choose(count)
            return indices

        try:
            probe = read_frames(path, remember, frames.__setitem__)
        except ClipError as error:
            refused = error.reason
        else:
            refused = ""
        if refused:  # set aside with a reason is not silently wrong
            assert not want or refused in ("clip-damaged", "clip-empty"), kind
            continue
        assert probe.frames == len(want), kind
        assert [number_in(frames[index]) for index in indices] == [want[index] for index in indices], kind
