"""Every frame is the one that decoding from the start shows, whichever packets are left out."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emoverse.media.decode import read_frames, still, uniform
from emoverse.media.probe import ClipError, Probe
from tests.factories.clips import TICKS, cut, played, remux_from, write_clip, write_no_frames, write_sound_only


def read(path: Path, indices: Sequence[int] | None = None) -> tuple[Probe, dict[int, np.ndarray]]:
    """Return the probe and the frames at some indices, all of them by default."""
    frames: dict[int, np.ndarray] = {}
    probe = read_frames(path, range if indices is None else lambda count: indices, frames.__setitem__)
    return probe, frames


def intervals(count: int) -> list[int]:
    """Return times of frames that are 1, 4 or 12 base steps apart."""
    steps = np.random.default_rng(3).choice([128, 512, 1536], count - 1)
    return [0, *np.cumsum(steps).tolist()]


KINDS = {
    "h264": {},
    "h264, one key frame": {"key_every": 1000, "frames": 60},
    "h264, sizes not divisible by 16": {"size": (162, 98)},
    "h264, many frames no other refers to": {"options": {"bf": "8", "b_strategy": "0"}, "key_every": 40, "frames": 60},
    "h264, every frame is a reference": {"options": {"bf": "0"}, "frames": 60},
    "h264, open groups": {"options": {"x264-params": "open-gop=1:bframes=4:scenecut=0"}, "frames": 48},
    "h264, interlaced": {"options": {"x264-params": "tff=1"}, "frames": 48},
    "h264, intra refresh": {"options": {"x264-params": "intra-refresh=1"}, "frames": 48},
    "h264, several slices": {"options": {"x264-params": "slices=4"}},
    "hevc": {"codec": "libx265"},
    "hevc, open groups": {"codec": "libx265", "options": {"x265-params": "open-gop=1:bframes=4"}, "frames": 48},
    "hevc, temporal layers": {"codec": "libx265", "options": {"x265-params": "temporal-layers=3"}, "frames": 48},
    "vp9": {"codec": "libvpx-vp9"},
    "av1": {"codec": "libsvtav1"},
    "mpeg4": {"codec": "mpeg4"},
    "mpeg4 with B-frames": {"codec": "mpeg4", "options": {"bf": "2"}, "frames": 48},
    "motion jpeg": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "variable frame rate": {"times": intervals(24)},
    "one frame": {"frames": 1},
    "with sound": {"sound": True},
}


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_the_one_that_playing_shows(tmp_path: Path, kind: str, suffix: str) -> None:
    path = write_clip(tmp_path / f"clip.{suffix}", **KINDS[kind])
    want = played(path)
    probe, frames = read(path)
    assert probe.frames == len(want) == KINDS[kind].get("frames", 24)
    for index, frame in frames.items():
        np.testing.assert_array_equal(frame, want[index])
    for index in range(0, len(want), 5):  # alone, so that most packets are left out
        np.testing.assert_array_equal(read(path, [index])[1][index], want[index])


def test_a_clip_cut_by_an_edit_list_shows_what_playing_shows(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", frames=48)
    path = remux_from(whole, tmp_path / "cut.mp4", ticks=TICKS // 2)
    want = played(path)
    probe, frames = read(path)
    assert probe.frames == len(want) < 48
    assert probe.duration == pytest.approx(len(want) / 24, abs=1e-4)
    for index, frame in frames.items():
        np.testing.assert_array_equal(frame, want[index])


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_rotated_clip_is_upright_as_a_player_shows_it(
    tmp_path: Path, rotation: int, corner: tuple[int, int], suffix: str
) -> None:
    path = write_clip(tmp_path / f"clip.{suffix}", frames=3, rotation=rotation)
    probe, frames = read(path)
    red = frames[1][corner].astype(int)
    assert red[0] > 180
    assert max(red[1:]) < 90
    assert probe.rotation == rotation
    assert (probe.width, probe.height) == ((160, 96) if rotation % 180 == 0 else (96, 160))


# a, b, c, d of the display matrix, and where it moves the upper left corner
MIRRORS = {
    "left and right": ((-1, 0, 0, 1), (0, -1)),
    "up and down": ((1, 0, 0, -1), (-1, 0)),
    "transposed": ((0, 1, 1, 0), (0, 0)),
    "transposed the other way": ((0, -1, -1, 0), (-1, -1)),
}


@pytest.mark.parametrize("kind", MIRRORS)
def test_a_mirrored_clip_is_shown_mirrored(tmp_path: Path, kind: str) -> None:
    (a, b, c, d), corner = MIRRORS[kind]
    path = write_clip(tmp_path / "clip.mp4", frames=3, matrix=(a, b, c, d))
    red = read(path)[1][1][corner].astype(int)
    assert red[0] > 180
    assert max(red[1:]) < 90


def test_a_clip_turned_by_a_few_degrees_is_turned_within_its_size(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=3, rotation=10)
    probe, frames = read(path)
    assert (probe.rotation, probe.width, probe.height) == (10, 160, 96)
    assert frames[1][0, 0].max() < 30, "the corner is turned away"


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=3, aspect=(4, 3))
    probe, frames = read(path)
    assert (probe.width, probe.height) == (213, 96)
    assert frames[0].shape == (96, 213, 3)


def test_the_probe_says_what_was_written(tmp_path: Path) -> None:
    probe, _ = read(write_clip(tmp_path / "clip.mp4", frames=36, fps=12, sound=True))
    assert (probe.frames, probe.duration, probe.fps, probe.codec) == (36, 3.0, 12.0, "h264")
    assert (probe.width, probe.height, probe.rotation, probe.has_audio) == (160, 96, 0, True)
    assert not probe.hdr


def test_longer_sound_does_not_make_the_clip_longer(tmp_path: Path) -> None:
    for suffix in ("mp4", "mkv"):
        path = write_clip(tmp_path / f"clip.{suffix}", sound=True, seconds_of_sound=9.0)
        assert read(path)[0].duration == pytest.approx(1.0, abs=2e-3)


def test_a_stream_without_times_has_no_duration(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.h264")
    probe, frames = read(path)
    assert (probe.frames, probe.duration, probe.fps) == (24, None, None)
    assert len(frames) == 24


def test_the_mean_rate_of_a_variable_clip_is_frames_over_duration(tmp_path: Path) -> None:
    probe, _ = read(write_clip(tmp_path / "clip.mp4", times=intervals(24)))
    assert probe.frames == 24
    assert probe.duration is not None
    assert probe.fps == pytest.approx(24 / probe.duration, abs=1e-5)


def test_high_dynamic_range_is_named(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", codec="libx265", options={"x265-params": "transfer=smpte2084"})
    assert read(path)[0].hdr


@pytest.mark.parametrize(
    ("codec", "true", "name"), [("libvpx-vp9", "webm", "clip.mp4"), ("libx264", "mp4", "clip.avi")]
)
def test_a_wrong_extension_changes_nothing(tmp_path: Path, codec: str, true: str, name: str) -> None:
    path = write_clip(tmp_path / f"source.{true}", codec=codec)
    want = played(path)
    probe, frames = read(path.rename(tmp_path / name))
    assert (probe.frames, round(probe.duration or 0, 2)) == (24, 1.0)
    for index, frame in frames.items():
        np.testing.assert_array_equal(frame, want[index])


def broken(folder: Path) -> dict[str, tuple[Path, str, str]]:
    """Return, for each way to be broken: the file, the reason, and the container and codec of the message."""
    text = folder / "text.mp4"
    text.write_text("this is no video\n" * 100)
    cover = folder / "still.jpg"
    Image.new("RGB", (64, 64)).save(cover)
    half_mkv = cut(write_clip(folder / "e.mkv", codec="libx265", frames=60), 0.6)
    empty = folder / "empty.mp4"
    empty.write_bytes(b"")
    return {
        "zero bytes": (empty, "clip-empty", ""),
        "no video at all": (text, "clip-unreadable", "(unknown container, unknown codec)"),
        "cut, index at the end": (cut(write_clip(folder / "a.mp4"), 0.6), "clip-truncated", "(mov, unknown codec)"),
        "cut, index at the front": (
            cut(write_clip(folder / "b.mp4", faststart=True), 0.6),
            "clip-truncated",
            "(mov, h264)",
        ),
        "cut, no index": (half_mkv, "clip-truncated", "(matroska, hevc)"),
        "no frames": (write_no_frames(folder / "d.mp4"), "clip-empty", "(mov, h264)"),
        "sound only": (write_sound_only(folder / "c.mp4"), "no-video-stream", "(mov, aac)"),
        "a still": (cover, "no-video-stream", "(jpeg_pipe, mjpeg)"),
    }


def test_each_way_to_be_broken_has_its_reason_and_names_the_clip(tmp_path: Path) -> None:
    for kind, (path, reason, container_and_codec) in broken(tmp_path).items():
        with pytest.raises(ClipError) as caught:
            read_frames(path, range, lambda index, frame: None, name=f"folder/{path.name}")
        assert caught.value.reason == reason, kind
        assert caught.value.place == f"folder/{path.name}", kind
        assert str(tmp_path) not in str(caught.value), kind
        assert caught.value.detail.endswith(container_and_codec), (kind, caught.value.detail)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "avi", "flv", "ts", "mpg", "asf"])
def test_half_a_download_is_called_truncated(tmp_path: Path, suffix: str) -> None:
    codecs = {"webm": "libvpx-vp9", "mpg": "mpeg2video", "asf": "wmv2"}
    codec = codecs.get(suffix, "libx264")
    fps = 25 if suffix == "mpg" else 24
    whole = write_clip(tmp_path / f"whole.{suffix}", codec=codec, sound=False, fps=fps, frames=60)
    assert read(whole)[0].frames == 60
    blob = whole.read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for length in np.linspace(0.3 * len(blob), 0.95 * len(blob), 7, dtype=int):
        path.write_bytes(blob[: length - (length % 188 == 0)])  # a TS that ends with a packet may be whole
        with pytest.raises(ClipError) as caught:
            read(path)
        assert caught.value.reason == "clip-truncated", (length, str(caught.value))


def test_bytes_after_the_last_box_are_no_truncation(tmp_path: Path) -> None:
    for number, tail in enumerate((b"\0" * 3, b"\0" * 100, b"TAG" + b"x" * 125, b"\xff" * 9)):
        path = write_clip(tmp_path / f"{number}.mp4")
        path.write_bytes(path.read_bytes() + tail)
        assert read(path)[0].frames == 24


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libx265"])
def test_zeroed_blocks_are_seen_or_do_not_touch_the_chosen_frames(tmp_path: Path, codec: str) -> None:
    whole = write_clip(tmp_path / "whole.mp4", frames=60, codec=codec, key_every=20)
    want, blob = played(whole), whole.read_bytes()
    start = blob.index(b"mdat") + 4
    rng = np.random.default_rng(5)
    seen = 0
    for number in range(12):
        at = int(rng.integers(start + 100, len(blob) - 3000))
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(blob[:at] + bytes(2000) + blob[at + 2000 :])
        try:
            probe, frames = read(path, uniform(60, 4))
        except ClipError:
            seen += 1
        else:
            assert probe.frames == 60
            for index, frame in frames.items():
                np.testing.assert_array_equal(frame, want[index])
    assert seen >= 6


def test_the_same_fault_gives_the_same_message_each_time(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    blob = bytearray(path.read_bytes())
    middle = len(blob) // 2
    blob[middle : middle + 2000] = bytes(2000)
    path.write_bytes(blob)
    messages = []
    for _ in range(2):
        with pytest.raises(ClipError) as caught:
            read(path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "% of its pictures" in messages[0]
    assert "(mov, h264)" in messages[0]


def test_uniform_sampling_is_that_of_internvl2() -> None:
    def original(max_frame: int, num_segments: int) -> list[int]:
        """The get_index of InternVL2's model card, without a bound."""
        seg_size = float(max_frame) / num_segments
        return [int((seg_size / 2) + np.round(seg_size * idx)) for idx in range(num_segments)]

    for count in range(1, 400):
        for frames in (1, 4, 8, 16):
            indices = uniform(count, frames)
            assert indices == original(count - 1, frames)
            assert len(indices) == frames
            assert 0 <= indices[0] <= indices[-1] < count


def test_a_still_is_the_peak_where_the_clip_has_it() -> None:
    assert still(24, 5) == 5
    assert still(24, 0) == 0
    assert still(24, None) == 12
    assert still(24, 24) == 12
    assert still(1, None) == 0


GROWTH = """
import resource, sys
from pathlib import Path
from emoverse.media.decode import read_frames
from emoverse.media.decode import uniform

for path in map(Path, sys.argv[1:]):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    probe = read_frames(path, lambda count: uniform(count, 8), lambda index, frame: None)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(probe.decoder, probe.frames, grown)
"""


@pytest.mark.parametrize("codec", ["mpeg4", "rawvideo"])  # many frames in few bytes, and many bytes
def test_memory_does_not_grow_with_the_clip(tmp_path: Path, codec: str) -> None:
    short, long = (
        write_clip(tmp_path / f"{n}.mkv", n, size=(320, 192), fps=4, key_every=60, codec=codec) for n in (8, 1200)
    )
    done = subprocess.run([sys.executable, "-c", GROWTH, short, long], capture_output=True, text=True, check=True)
    decoder, frames, grown = done.stdout.split()
    assert (decoder, int(frames)) == ("pyav", 1200)
    assert float(grown) < 30, "MB; all frames are 220 MB, the raw file 110 MB"


def frames_by(decoder: str, path: Path) -> tuple[Probe, dict[int, np.ndarray]]:
    frames: dict[int, np.ndarray] = {}
    probe = read_frames(path, lambda count: uniform(count, 8), frames.__setitem__, decoder=decoder)
    return probe, {index: frames[index] for index in uniform(probe.frames, 8)}


@pytest.mark.parametrize(
    ("name", "settings", "reader"),
    [
        ("a.mp4", {}, "decord"),
        ("a.mkv", {"key_every": 5}, "decord"),
        ("a.mov", {"codec": "mjpeg", "pixels": "yuvj420p"}, "decord"),
        ("turned.mp4", {"rotation": 90}, "pyav"),  # decord turns nothing
        ("wide.mp4", {"aspect": (2, 1)}, "pyav"),
        ("a-hevc.mp4", {"codec": "libx265"}, "pyav"),  # decord's seeking is not exact there
        ("a.webm", {"codec": "libvpx-vp9"}, "pyav"),  # its packets prove nothing
        ("a.ts", {}, "pyav"),
    ],
)
def test_decord_reads_the_clips_whose_packets_prove_every_position_and_no_others(
    tmp_path: Path, name: str, settings: dict[str, Any], reader: str
) -> None:
    pytest.importorskip("decord")
    path = write_clip(tmp_path / name, 40, **settings)
    probe, frames = frames_by("decord", path)
    expected_probe, expected = frames_by("pyav", path)
    assert probe.decoder == reader
    assert (probe.frames, probe.width, probe.height) == (
        expected_probe.frames,
        expected_probe.width,
        expected_probe.height,
    )
    assert list(frames) == list(expected)
    for index, frame in frames.items():
        assert (
            np.abs(frame.astype(int) - expected[index]).max() <= 8
        )  # two versions of FFmpeg round colours differently


def test_decord_that_is_not_installed_is_the_machines_fault_and_no_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ImportError):
        frames_by("decord", write_clip(tmp_path / "a.mp4"))
