"""A clip is found by name in either Unicode form, and never outside its corpus."""

import unicodedata
from pathlib import Path

import pytest

from emoverse.media.probe import ClipError
from emoverse.validation.plan import ClipFiles


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize("clip", ["a.mp4", "with space/b c.mp4", "-iRBcNs9oI8/3.mp4", "128258/9.mp4"])
def test_awkward_names_are_found(tmp_path: Path, clip: str) -> None:
    assert ClipFiles(put(tmp_path / clip) and tmp_path).find(clip) == tmp_path / clip


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_decomposed_file_name_is_the_composed_clip(tmp_path: Path, form: str) -> None:
    path = put(tmp_path / unicodedata.normalize(form, "Raw/Zoë/1.mp4"))
    for form in ("NFC", "NFD"):
        assert ClipFiles(tmp_path).find(unicodedata.normalize(form, "Raw/Zoë/1.mp4")) == path
    assert ClipFiles(tmp_path).unmentioned_videos({unicodedata.normalize("NFC", "Raw/Zoë/1.mp4")}) == []


@pytest.mark.parametrize("clip", ["../b.mp4", "a/../../b.mp4", "/etc/passwd", "link.mp4", "folder/b.mp4"])
def test_paths_and_links_that_leave_the_corpus_are_refused(tmp_path: Path, clip: str) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    put(tmp_path / "b.mp4")
    (root / "link.mp4").symlink_to(tmp_path / "b.mp4")
    (root / "folder").symlink_to(tmp_path)
    with pytest.raises(ClipError) as caught:
        ClipFiles(root).find(clip)
    assert caught.value.reason == "clip-outside-root"


def test_a_link_inside_the_corpus_is_fine(tmp_path: Path) -> None:
    put(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    assert ClipFiles(tmp_path).find("b.mp4").read_bytes() == b"x"


def test_a_missing_clip_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ClipError) as caught:
        ClipFiles(tmp_path).find("a.mp4")
    assert caught.value.reason == "clip-missing"


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ("a/b.MP4", "no file 'a/b.mp4', but 'a/b.MP4': rename it if it is an MP4, else convert it"),
        ("a/b.avi", "no file 'a/b.mp4', but 'a/b.avi'"),
        ("a/B.webm", "no file 'a/b.mp4', but 'a/B.webm'"),
        ("a/c.mp4", "no file 'a/b.mp4'"),
        ("c/b.mp4", "no file 'a/b.mp4': there is no folder 'a'"),
    ],
)
def test_a_missing_clip_is_named_with_the_folder_or_the_other_file_there(tmp_path: Path, there: str, says: str) -> None:
    put(tmp_path / there)
    with pytest.raises(ClipError) as caught:
        ClipFiles(tmp_path).find("a/b.mp4")
    assert caught.value.detail.startswith(says)


def test_only_video_files_that_nobody_mentions_are_left_over(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.MP4", "c.avi", "notes.csv", "OpenFace/a.csv"):
        put(tmp_path / name)
    assert ClipFiles(tmp_path).unmentioned_videos({"a.mp4"}) == ["b.MP4", "c.avi"]


def test_files_that_macos_adds_are_no_clips(tmp_path):
    for name in ("Raw/a.mp4", "Raw/._a.mp4", "Raw/._b.avi", "__MACOSX/Raw/a.mp4", "__MACOSX/._x.mp4", "Raw/.DS_Store"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert ClipFiles(tmp_path).unmentioned_videos(set()) == ["Raw/a.mp4"]
    assert "._b.avi" not in ClipFiles(tmp_path).missing_detail("Raw/b.mp4")


def test_links_out_of_the_corpus_are_listed_clips_aside(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    put(root / "in.csv")
    put(tmp_path / "out.csv")
    (root / "good.csv").symlink_to("in.csv")
    (root / "clip.mp4").symlink_to("../out.csv")
    (root / "bad.csv").symlink_to("../out.csv")
    (root / "folder").symlink_to("..")
    assert ClipFiles(root).links_outside() == [str(root / "folder"), str(root / "bad.csv")]
