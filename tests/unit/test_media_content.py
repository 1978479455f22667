"""Black, frozen and silent clips are measured as they are, whatever kind of file they come in."""

import functools
from pathlib import Path

import numpy as np
import pytest

from emoverse.config import MediaParams
from emoverse.media.decode import is_silent
from emoverse.media.workers import Done, Task, process
from tests.factories.clips import picture, write_clip


def probe_of(path: Path, **media: object):
    params = MediaParams(**{"frames": 4, "size": 32, "timeout": 20.0} | media)
    done = process(Task(clip_id="m/0", clip=path.name, path=path, units=None, params=params))
    assert isinstance(done, Done)
    assert done.probe is not None, done.failure
    return done.probe


def dark_until(last: int, index: int, width: int, height: int) -> np.ndarray:
    """Draw pictures with a small light until frame ``last``, ordinary ones from there."""
    image = np.full((height, width, 3), 4, np.uint8)
    image[:8, :8] = 200
    return image if index < last else picture(index, width, height)


def still_from(first: int, index: int, width: int, height: int) -> np.ndarray:
    return picture(min(index, first), width, height)


# The chosen frames of 24 are 2, 8, 14 and 19.
@pytest.mark.parametrize(("last", "share"), [(24, 1.0), (12, 0.5), (3, 0.25), (0, 0.0)])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_the_share_of_black_frames_is_measured(tmp_path: Path, last: int, share: float, codec: str) -> None:
    path = write_clip(tmp_path / "clip.mp4", size=(640, 360), codec=codec, draw=functools.partial(dark_until, last))
    assert probe_of(path).black == share


@pytest.mark.parametrize(("first", "share"), [(0, 1.0), (12, 1 / 3), (3, 2 / 3), (24, 0.0)])
@pytest.mark.parametrize(("codec", "key_every"), [("libx264", 12), ("libx264", 1000), ("mpeg4", 1000)])
def test_the_share_of_frozen_frames_is_measured(
    tmp_path: Path, first: int, share: float, codec: str, key_every: int
) -> None:
    path = write_clip(
        tmp_path / "clip.mp4", codec=codec, key_every=key_every, draw=functools.partial(still_from, first)
    )
    assert probe_of(path).frozen == pytest.approx(share, abs=1e-6)


def test_the_crop_and_the_colour_of_what_is_stored_change_nothing(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", draw=functools.partial(dark_until, 12))
    probe = probe_of(path, colour="grey-equalised", crop="center")
    assert (probe.black, probe.frozen) == (0.5, pytest.approx(1 / 3, abs=1e-6))


def test_a_single_picture_is_not_called_frozen(tmp_path: Path) -> None:
    assert probe_of(write_clip(tmp_path / "clip.mp4", frames=1)).frozen is None


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize(("volume", "silent"), [(0.2, False), (0.01, False), (0.0, True)])
def test_a_silent_sound_track_is_told_from_a_quiet_one(
    tmp_path: Path, suffix: str, volume: float, silent: bool
) -> None:
    path = write_clip(tmp_path / f"clip.{suffix}", sound=True, volume=volume)
    assert probe_of(path).silent is silent


def test_without_a_sound_track_nothing_is_silent(tmp_path: Path) -> None:
    assert probe_of(write_clip(tmp_path / "clip.mp4")).silent is None


def test_sound_that_cannot_be_decoded_is_unknown_and_costs_nothing(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", sound=True, volume=0.0)
    blob = path.read_bytes()
    assert blob.count(b"A_AAC") == 1
    path.write_bytes(blob.replace(b"A_AAC", b"A_QQQ"))
    assert is_silent(path) is None
    assert probe_of(path).frames == 24


def blinking(index: int, width: int, height: int) -> np.ndarray:
    """Draw a still picture in which only a small spot moves, as a mouth does."""
    image = picture(0, width, height)
    image[height // 2 : height // 2 + height // 16, index * 4 : index * 4 + width // 16] = 230
    return image


@pytest.mark.parametrize("size", [(160, 96), (640, 360)])
def test_a_still_scene_in_which_only_a_mouth_moves_is_not_frozen(tmp_path: Path, size: tuple[int, int]) -> None:
    assert probe_of(write_clip(tmp_path / "clip.mp4", size=size, draw=blinking)).frozen == 0.0
