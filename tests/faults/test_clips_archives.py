"""A corpus archive can only put files into its own folder, and of sane size."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from emoverse.errors import UserError
from emoverse.media import archives
from emoverse.media.archives import unpack


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def pack(path: Path, files: dict[str, bytes], extra: list[tarfile.TarInfo] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, blob in files.items():
            info = member(name)
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))
        for info in extra or []:
            tar.addfile(info)
    return path


def test_an_archive_of_archives_is_unpacked_whole(tmp_path: Path) -> None:
    inner = pack(tmp_path / "train.tar.gz", {"train_splits/dia0_utt0.mp4": b"clip", "./train_splits/b c.mp4": b"two"})
    outer = pack(tmp_path / "MELD.Raw.tar.gz", {"MELD.Raw/train.tar.gz": inner.read_bytes(), "MELD.Raw/a.csv": b"x"})
    assert unpack(outer, tmp_path / "MELD") == 4
    files = [path for path in (tmp_path / "MELD").rglob("*") if path.is_file()]
    found = {path.relative_to(tmp_path / "MELD").as_posix(): path.read_bytes() for path in files}
    assert found == {
        "MELD.Raw/train_splits/dia0_utt0.mp4": b"clip", "MELD.Raw/train_splits/b c.mp4": b"two", "MELD.Raw/a.csv": b"x",
    }  # fmt: skip


def twice(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for _ in range(2):
            tar.addfile(member("a.mp4"), io.BytesIO(b""))
    return path


def cut_short(path: Path) -> Path:
    pack(path, {"a.mp4": bytes(range(256)) * 4000})
    path.write_bytes(path.read_bytes()[:-2000])
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "climbing": (lambda p: pack(p, {"x/../../evil.mp4": b"x"}), "leads out"),
    "absolute": (lambda p: pack(p, {"/tmp/evil.mp4": b"x"}), "leads out"),
    "climbing folder": (lambda p: pack(p, {}, [member("../evil", tarfile.DIRTYPE)]), "leads out"),
    "symbolic link": (lambda p: pack(p, {}, [member("a", tarfile.SYMTYPE, "/etc")]), "link or a device"),
    "hard link": (lambda p: pack(p, {}, [member("a", tarfile.LNKTYPE, "/etc/passwd")]), "link or a device"),
    "device": (lambda p: pack(p, {}, [member("a", tarfile.CHRTYPE)]), "link or a device"),
    "pipe": (lambda p: pack(p, {}, [member("a", tarfile.FIFOTYPE)]), "link or a device"),
    "same name twice": (twice, "twice"),
    "cut short": (cut_short, "ends too early"),
    "no archive": (lambda p: p.write_text("hello") and p, "broken"),
    "inner one climbs": (
        lambda p: pack(p, {"a/in.tar.gz": pack(p.with_name("in.tar.gz"), {"../../evil": b"x"}).read_bytes()}),
        "leads out",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_hostile_or_broken_archive_is_refused_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    make, word = BAD[kind]
    archive = make(tmp_path / "in" / "corpus.tar.gz")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=word) as caught:
        unpack(archive, tmp_path / "out" / "MELD")
    assert "corpus.tar.gz" in caught.value.place
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / "out"}


def test_a_bomb_is_refused_before_it_is_on_disk(tmp_path: Path) -> None:
    bomb = pack(tmp_path / "bomb.tar.gz", {"zeros.mp4": bytes(210 << 20)})
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(UserError, match="far more"):
        unpack(bomb, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_archives_too_deep_and_files_too_many_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nested = pack(tmp_path / "0.tar.gz", {"a.mp4": b"x"})
    for depth in range(1, 5):
        nested = pack(tmp_path / f"{depth}.tar.gz", {f"{depth - 1}.tar.gz": nested.read_bytes()})
    with pytest.raises(UserError, match="deep"):
        unpack(nested, tmp_path / "out")
    monkeypatch.setattr(archives, "MAX_FILES", 3)
    with pytest.raises(UserError, match="far more"):
        unpack(pack(tmp_path / "many.tar.gz", {f"{n}.mp4": b"" for n in range(5)}), tmp_path / "out")


def test_what_is_there_already_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "MELD").mkdir()
    with pytest.raises(UserError, match="already"):
        unpack(pack(tmp_path / "a.tar.gz", {"a": b""}), tmp_path / "MELD")
