"""Both decoders give the same frames of every clip one of them can read, and no index is ever out of range."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from emoverse.media import decode as read
from emoverse.media.decode import in_order, read_frames, still, uniform
from emoverse.media.probe import ClipError, Header
from tests.factories.clips import TICKS, cut, remux_from, write_clip, write_no_frames, write_sound_only


def frames_of(path: Path, indices: list[int], decoder: str) -> dict[int, np.ndarray]:
    got: dict[int, np.ndarray] = {}
    probe = read_frames(path, lambda count: indices, got.__setitem__, decoders=(decoder,))
    assert probe.decoder == decoder
    return got


def intervals(count: int) -> list[int]:
    """Return times of frames that lie 1, 4 or 12 base steps apart."""
    steps = np.random.default_rng(3).choice([128, 512, 1536], count - 1)
    return [0, *np.cumsum(steps).tolist()]


KINDS = {
    "h264": {},
    "h264, one key frame": {"key_every": 1000, "frames": 60},
    "h264, sizes not divisible by 16": {"size": (162, 98)},
    "h264, many frames nobody refers to": {"options": {"bf": "8", "b_strategy": "0"}, "key_every": 40, "frames": 60},
    "h264, every frame referred to": {"options": {"bf": "0"}, "frames": 60},
    "hevc": {"codec": "libx265"},
    "vp9": {"codec": "libvpx-vp9"},
    "mpeg4": {"codec": "mpeg4"},
    "variable frame rate": {"times": intervals(24)},
    "turned by 90": {"rotation": 90},
    "turned by 180": {"rotation": 180},
    "turned by 270": {"rotation": 270},
    "one frame": {"frames": 1},
    "with sound": {"sound": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_decord_and_pyav_give_the_same_pixels(tmp_path: Path, kind: str) -> None:
    settings = dict(KINDS[kind])
    path = write_clip(tmp_path / ("clip.webm" if settings.get("codec") == "libvpx-vp9" else "clip.mp4"), **settings)
    count = settings.get("frames", 24)
    indices = sorted({*range(0, count, 7), count // 2, count // 2 + 1, count - 1} & set(range(count)))
    one, two = frames_of(path, indices, "decord"), frames_of(path, indices, "pyav")
    assert list(one) == list(two) == indices
    for index in indices:
        np.testing.assert_array_equal(one[index], two[index])


# Beyond the contract: decord is off by frames where it seeks to the key frame of an open group, and turns interlaced
# pictures to RGB its own way.
HARD = {
    "h264, open groups": {"options": {"x264-params": "open-gop=1:bframes=4:scenecut=0"}},
    "h264, interlaced": {"options": {"x264-params": "tff=1"}},
    "hevc, open groups": {"codec": "libx265", "options": {"x265-params": "open-gop=1:bframes=4"}},
}


@pytest.mark.parametrize("kind", HARD)
def test_a_frame_that_is_sought_is_the_one_that_playing_shows(tmp_path: Path, kind: str) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=48, **HARD[kind])
    with av.open(str(path)) as container:
        played = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(played) == 48
    for index in range(0, 48, 5):
        np.testing.assert_array_equal(frames_of(path, [index], "pyav")[index], played[index])


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_leaving_out_frames_changes_no_other(tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=50, codec=codec, key_every=30)
    skipped = [frames_of(path, [index], "pyav")[index] for index in range(50)]
    monkeypatch.setattr(read, "SKIPPING", frozenset())
    for index, frame in frames_of(path, list(range(50)), "pyav").items():
        np.testing.assert_array_equal(skipped[index], frame)


def test_the_decoder_that_need_not_decode_all_goes_first() -> None:
    def order(codec: str, seconds: float | None = 3.0, decoders: tuple[str, ...] = ("decord", "pyav")) -> list[str]:
        return in_order(decoders, Header(seconds, 0, codec, has_audio=False))

    assert order("h264") == order("hevc") == ["pyav", "decord"]
    assert order("vp9") == order("mpeg4", None) == ["decord", "pyav"]
    assert order("mpeg4", 300.0) == ["pyav", "decord"]
    assert order("av1") == ["pyav"]
    assert order("h264", decoders=("decord",)) == ["decord"]


def test_decoders_agree_on_a_clip_cut_by_an_edit_list(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", frames=48)
    path = remux_from(whole, tmp_path / "cut.mp4", ticks=TICKS // 2)
    counts: dict[str, int] = {}
    got: dict[str, dict[int, np.ndarray]] = {"decord": {}, "pyav": {}}
    for decoder, frames in got.items():
        counts[decoder] = read_frames(path, lambda n: uniform(n, 4), frames.__setitem__, decoders=(decoder,)).frames
    assert counts["decord"] == counts["pyav"]
    for index in got["decord"]:
        np.testing.assert_array_equal(got["decord"][index], got["pyav"][index])


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_rotated_clip_stands_as_a_player_shows_it(
    tmp_path: Path, rotation: int, corner: tuple[int, int], decoder: str
) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=3, rotation=rotation)
    got: dict[int, np.ndarray] = {}
    probe = read_frames(path, lambda count: [1], got.__setitem__, decoders=(decoder,))
    red = got[1][corner].astype(int)
    assert red[0] > 180
    assert max(red[1:]) < 90
    assert probe.rotation == rotation
    assert (probe.width, probe.height) == ((160, 96) if rotation % 180 == 0 else (96, 160))


def test_av1_is_read_by_pyav_since_decord_cannot(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", codec="libsvtav1")
    got: dict[int, np.ndarray] = {}
    probe = read_frames(path, lambda count: uniform(count, 4), got.__setitem__)
    assert (probe.codec, probe.decoder, probe.frames, len(got)) == ("av1", "pyav", 24, 4)


def test_the_probe_tells_what_was_written(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=36, fps=12, sound=True)
    probe = read_frames(path, lambda count: [0], lambda index, frame: None)
    assert (probe.frames, probe.duration, probe.fps, probe.codec) == (36, 3.0, 12.0, "h264")
    assert (probe.width, probe.height, probe.rotation, probe.has_audio) == (160, 96, 0, True)


def test_the_mean_rate_of_a_variable_clip_is_frames_over_duration(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", times=intervals(24))
    probe = read_frames(path, lambda count: [0], lambda index, frame: None)
    assert probe.frames == 24
    assert probe.fps == pytest.approx(24 / probe.duration, abs=1e-5)


@pytest.mark.parametrize(
    ("codec", "true", "name"), [("libvpx-vp9", "webm", "clip.mp4"), ("libx264", "mp4", "clip.avi")]
)
def test_a_wrong_extension_costs_nothing(tmp_path: Path, codec: str, true: str, name: str) -> None:
    path = write_clip(tmp_path / f"source.{true}", codec=codec)
    want = frames_of(path, [0, 11, 23], "pyav")
    got: dict[int, np.ndarray] = {}
    probe = read_frames(path.rename(tmp_path / name), lambda count: [0, 11, 23], got.__setitem__)
    assert (probe.frames, probe.duration) == (24, 1.0)
    for index, frame in want.items():
        np.testing.assert_array_equal(got[index], frame)


def broken(folder: Path) -> dict[str, tuple[Path, str]]:
    text = folder / "text.mp4"
    text.write_text("this is no video\n" * 100)
    empty = folder / "empty.mp4"
    empty.write_bytes(b"")
    return {
        "zero bytes": (empty, "clip-empty"),
        "no video at all": (text, "clip-unreadable"),
        "cut, index at the end": (cut(write_clip(folder / "a.mp4"), 0.6), "clip-truncated"),
        "cut, index at the front": (cut(write_clip(folder / "b.mp4", faststart=True), 0.6), "clip-truncated"),
        "no frames": (write_no_frames(folder / "d.mp4"), "clip-empty"),
        "sound only": (write_sound_only(folder / "c.mp4"), "no-video-stream"),
    }


def test_each_way_to_be_broken_has_its_reason_and_names_the_clip(tmp_path: Path) -> None:
    for kind, (path, reason) in broken(tmp_path).items():
        with pytest.raises(ClipError) as caught:
            read_frames(path, lambda count: [0], lambda index, frame: None, name=f"folder/{path.name}")
        assert caught.value.reason == reason, kind
        assert caught.value.place == f"folder/{path.name}", kind
        assert str(tmp_path) not in str(caught.value), kind


def test_the_same_fault_gives_the_same_words_each_time(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.webm", codec="libvpx-vp9")
    cut(path, 0.3)
    blob = bytearray(path.read_bytes())
    blob[400:] = bytes(len(blob) - 400)
    path.write_bytes(blob)
    said = []
    for _ in range(2):
        with pytest.raises(ClipError) as caught:
            read_frames(path, lambda count: [0], lambda index, frame: None)
        said.append(str(caught.value))
    assert said[0] == said[1]


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
def test_a_five_minute_clip_is_sought_not_loaded(tmp_path: Path, codec: str) -> None:
    short, long = (
        write_clip(tmp_path / f"{n}.mkv", n, size=(320, 192), fps=4, key_every=60, codec=codec) for n in (8, 1200)
    )
    done = subprocess.run([sys.executable, "-c", GROWTH, short, long], capture_output=True, text=True, check=True)
    decoder, frames, grown = done.stdout.split()
    assert (decoder, int(frames)) == ("pyav", 1200)
    assert float(grown) < 30, "MB; all frames are 220 MB, the raw file 110 MB"
