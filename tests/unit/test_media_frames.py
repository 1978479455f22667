"""Frames come out of the shards as they went in, by id, in any process; damage is named."""

import multiprocessing as mp
import pickle
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emoverse.config import MediaParams
from emoverse.errors import UserError
from emoverse.media import frames as frames_module
from emoverse.media import shards as shards_module
from emoverse.media.frames import FrameStore, write_index
from emoverse.media.shards import ShardWriter
from emoverse.media.transform import encode

MEDIA = MediaParams(frames=3, size=16, timeout=5.0)


def shades(clip: int, number: int) -> np.ndarray:
    return np.random.default_rng([clip, number]).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def fill(folder: Path, clips: int, corpus: str = "meld") -> list[str]:
    """Write clips of three uniform frames and a peak; return their ids."""
    writer = ShardWriter(folder / "frames")
    ids = sorted(f"{corpus}/train/dia{n}_utt0" for n in range(clips))
    rows = []
    for n, clip in enumerate(ids):
        blobs = [encode(Image.fromarray(shades(n, k)), MEDIA) for k in range(4)]
        slots = writer.add([(f"{clip}.{k}.png", blob) for k, blob in enumerate(blobs)])
        rows += [(clip, "peak" if k == 3 else "uniform", 0 if k == 3 else k, k, slot) for k, slot in enumerate(slots)]
    writer.close()
    write_index(folder / "frames" / "index.parquet", rows)
    return ids


def test_every_reference_gives_its_frames(tmp_path: Path) -> None:
    ids = fill(tmp_path, 30)
    store = FrameStore([tmp_path])
    assert len(store) == 30
    for n, clip in enumerate(ids):
        np.testing.assert_array_equal(store[f"clip:{clip}"], np.stack([shades(n, k) for k in range(3)]))
        np.testing.assert_array_equal(store[f"clip:{clip}#peak"], shades(n, 3)[None])


def test_blank_is_mid_grey_of_the_same_shape(tmp_path: Path) -> None:
    clip = fill(tmp_path, 1)[0]
    store = FrameStore([tmp_path])
    for reference in (f"clip:{clip}", f"clip:{clip}#peak"):
        blank = store[f"{reference}#blank"]
        assert blank.shape == store[reference].shape
        assert blank.dtype == np.uint8
        assert (blank == 128).all()


def test_several_folders_are_searched(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "meld", 3)[0], fill(tmp_path / "ecf", 3, "ecf")[2]
    store = FrameStore([tmp_path / "meld", tmp_path / "ecf"])
    assert f"clip:{one}" in store
    np.testing.assert_array_equal(store[f"clip:{two}"][0], shades(2, 0))


@pytest.mark.parametrize("reference", ["clip:meld/train/nobody", "meld/train/dia0_utt0", "clip:", "clip:zzz", "clip:a"])
def test_an_unknown_reference_is_an_error_that_names_it(tmp_path: Path, reference: str) -> None:
    fill(tmp_path, 2)
    store = FrameStore([tmp_path])
    assert reference not in store
    with pytest.raises(UserError, match=reference):
        store[reference]


def test_one_flipped_bit_is_found_and_the_clip_and_shard_are_named(tmp_path: Path) -> None:
    ids = fill(tmp_path, 3)
    shard = tmp_path / "frames" / "00000.tar"
    blob = bytearray(shard.read_bytes())
    blob[512 + 60] ^= 1  # inside the first frame of the first clip
    shard.write_bytes(blob)
    store = FrameStore([tmp_path])
    with pytest.raises(UserError, match=r"00000\.tar.*dia0_utt0") as caught:
        store[f"clip:{ids[0]}"]
    assert "byte 512" in str(caught.value)
    assert store[f"clip:{ids[0]}#peak"].shape == (1, 16, 16, 3)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    clip = fill(tmp_path, 1)[0]
    (tmp_path / "frames" / "00000.tar").unlink()
    with pytest.raises(UserError, match=r"00000\.tar"):
        FrameStore([tmp_path])[f"clip:{clip}"]


def test_shards_are_ordinary_tars_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "MAX_CLIPS", 4)
    ids = fill(tmp_path, 10)
    tars = sorted((tmp_path / "frames").glob("*.tar"))
    assert [tar.name for tar in tars] == ["00000.tar", "00001.tar", "00002.tar"]
    members: list[tarfile.TarInfo] = []
    for path in tars:
        with tarfile.open(path) as tar:
            members += tar.getmembers()
    assert [member.name for member in members] == [f"{clip}.{k}.png" for clip in ids for k in range(4)]
    assert all(tar.stat().st_size % 10_240 == 0 for tar in tars)
    assert {(member.mtime, member.uid, member.gid) for member in members} == {(0, 0, 0)}
    np.testing.assert_array_equal(FrameStore([tmp_path])[f"clip:{ids[9]}"][2], shades(9, 2))


def test_long_and_foreign_names_are_stored_whole(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "frames")
    name = "mosei/train/" + "ü" * 120 + "/-3.uniform0.png"
    blob = encode(Image.fromarray(shades(0, 0)), MEDIA)
    slot = writer.add([(name, blob)])[0]
    writer.close()
    with tarfile.open(tmp_path / "frames" / "00000.tar") as tar:
        assert tar.getnames() == [name]
    assert (tmp_path / "frames" / "00000.tar").read_bytes()[slot.offset : slot.offset + slot.length] == blob


def mean_of(work: tuple[FrameStore, str]) -> float:
    store, reference = work
    return float(store[reference].mean())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_store_works_in_other_processes(tmp_path: Path, method: str) -> None:
    references = [f"clip:{clip}" for clip in fill(tmp_path, 8)]
    store = FrameStore([tmp_path])
    here = [float(store[reference].mean()) for reference in references]  # the shard is open before the processes start
    with ProcessPoolExecutor(2, mp_context=mp.get_context(method)) as pool:
        assert list(pool.map(mean_of, [(store, reference) for reference in references])) == here
    assert pickle.loads(pickle.dumps(store))[references[0]].mean() == here[0]


def test_a_bounded_number_of_shards_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "MAX_CLIPS", 1)
    monkeypatch.setattr(frames_module, "SHARDS_OPEN", 2)
    ids = fill(tmp_path, 6)
    store = FrameStore([tmp_path])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        for n, clip in enumerate(ids):
            np.testing.assert_array_equal(store[f"clip:{clip}"][0], shades(n, 0))
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 2


def test_an_empty_index_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    write_index(tmp_path / "frames" / "index.parquet", [])
    assert len(FrameStore([tmp_path])) == 0
    assert "clip:x" not in FrameStore([tmp_path])


def test_a_folder_without_an_index_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="emoverse validate"):
        FrameStore([tmp_path])
