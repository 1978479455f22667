"""Clips in the forms that public bug reports describe; every picture bears its number in eight stripes."""

import json
from pathlib import Path

import numpy as np
import pytest

from emoverse.media.decode import read_frames, still, uniform
from emoverse.media.probe import ClipError, Probe
from tests.factories.clips import number_in, played

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "cases" / "media"
WANTED = json.loads((CLIPS / "want.json").read_text()) if CLIPS.is_dir() else {}
NO_CLIPS = f"{CLIPS} is not there"
# FFmpeg shows other numbers than 0, 1, 2, ...: pictures left out, or the first one repeated until the sound begins.
OTHER_NUMBERS = {"drop_vfr.mp4", "late_start.mp4", "late_start_mpeg4.mp4"}
# FFmpeg 8.1 has no decoder for it.
NOT_BY_FFMPEG = {"anim.webp"}
# Damage that changes the pictures but breaks no rule of the codec, so that no decoder can see it.
UNSEEN = {"flip_vp9.mp4", "flip_hevc.mp4", "mid_random_hevc.mp4", "mid_random_vp8.webm", "tail0_av1.mp4"}


def chosen(count: int) -> list[int]:
    return sorted({*uniform(count, 8), still(count, None)})


def read(name: str, choose=range, decoder="pyav") -> tuple[Probe, dict[int, np.ndarray]]:
    frames: dict[int, np.ndarray] = {}
    probe = read_frames(CLIPS / name, choose, frames.__setitem__, decoder=decoder)
    return probe, {index: frames[index] for index in choose(probe.frames)}


@pytest.mark.skipif(not WANTED, reason=NO_CLIPS)
@pytest.mark.parametrize(("choose", "decoder"), [(range, "pyav"), (chosen, "pyav"), (chosen, "decord")])
@pytest.mark.parametrize("name", [n for n, want in WANTED.items() if isinstance(want, int) and n not in NOT_BY_FFMPEG])
def test_every_frame_of_an_undamaged_clip_is_the_one_ffmpeg_shows(name: str, choose, decoder: str) -> None:
    if decoder == "decord":
        pytest.importorskip("decord")
    probe, frames = read(name, choose, decoder)
    shown = played(CLIPS / name)
    assert probe.frames == len(shown)
    if name not in OTHER_NUMBERS:
        assert probe.frames == WANTED[name]
        assert [number_in(frame) for frame in frames.values()] == list(frames)
    for index, frame in frames.items():
        assert number_in(frame) == number_in(shown[index])
    assert probe.duration is None or abs(probe.duration - 60 / 25) < 0.1 or len(shown) != 60 or "gap" in name


@pytest.mark.skipif(not WANTED, reason=NO_CLIPS)
@pytest.mark.parametrize("name", [n for n, want in WANTED.items() if want is None] + sorted(NOT_BY_FFMPEG))
def test_a_file_without_a_whole_video_is_set_aside(name: str) -> None:
    with pytest.raises(ClipError) as caught:
        read(name)
    reasons = {
        "cut": "clip-truncated",
        "audio": "no-video-stream",
        "still": "no-video-stream",
        "anim": "no-video-stream",
    }
    assert caught.value.reason == reasons.get(name.split(".")[0].split("_")[0], "clip-unreadable")


@pytest.mark.skipif(not WANTED, reason=NO_CLIPS)
@pytest.mark.parametrize("name", [n for n, w in WANTED.items() if isinstance(w, str) and n not in UNSEEN])
def test_a_damaged_or_cut_clip_is_set_aside_or_shows_what_ffmpeg_shows(name: str) -> None:
    try:
        _, frames = read(name, chosen)
    except ClipError as error:
        damage = error.reason
    else:
        damage = ""
        shown = [number_in(frame) for frame in played(CLIPS / name)]
        numbers = [number_in(frame) for frame in frames.values()]
        assert numbers == [shown[index] for index in frames]
        assert numbers == sorted(set(numbers)), "pictures are whole: their numbers ascend"
    whole = ("editlist", "nokey.", "nokey_hevc", "flip_mpeg4")  # what FFmpeg shows of these is whole where it is chosen
    assert damage == ("" if name.startswith(whole) else "clip-damaged")
