"""A corpus archive can only put files into its own folder, and of sane size."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emoverse.artifacts import archives
from emoverse.artifacts.archives import unpack
from emoverse.cli.__init__ import main
from emoverse.errors import UserError


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


def zipped(path: Path, files: dict[str, bytes], modes: dict[str, int] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, blob in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            packed.writestr(info, blob)
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_melds_archive_of_archives_gives_the_folders_that_are_read(tmp_path: Path) -> None:
    train = pack(tmp_path / "train.tar.gz", {"train_splits/dia0_utt0.mp4": b"clip", "./train_splits/b c.mp4": b"two"})
    dev = pack(tmp_path / "dev.tar.gz", {"dev/dev_splits_complete/dia0_utt0.mp4": b"three"})
    inner = {f"MELD.Raw/{path.name}": path.read_bytes() for path in (train, dev)}
    outer = pack(tmp_path / "MELD.Raw.tar.gz", {**inner, "MELD.Raw/train_sent_emo.csv": b"x"})
    assert unpack(outer, tmp_path / "MELD") == 6
    assert files_in(tmp_path / "MELD") == {
        "train/train_splits/dia0_utt0.mp4": b"clip", "train/train_splits/b c.mp4": b"two",
        "dev/dev_splits_complete/dia0_utt0.mp4": b"three", "train_sent_emo.csv": b"x",
    }  # fmt: skip


def test_the_command_unpacks_a_zip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = zipped(tmp_path / "Raw.zip", {"Raw/-iRBcNs9oI8/3.mp4": b"clip", "Raw/128258/": b""})
    assert main(["unpack", str(archive), "--out", str(tmp_path / "MOSEI" / "Raw")]) == 0
    assert files_in(tmp_path / "MOSEI") == {"Raw/-iRBcNs9oI8/3.mp4": b"clip", ".Raw.lock": b""}
    assert "1 files" in capsys.readouterr().out
    assert main(["unpack", str(tmp_path / "none.zip"), "--out", str(tmp_path / "x")]) == 2
    assert "no such archive" in capsys.readouterr().err


def twice(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for _ in range(2):
            tar.addfile(member("a.mp4"), io.BytesIO(b""))
    return path


def cut_short(path: Path, make: Callable[[Path, dict[str, bytes]], Path] = pack) -> Path:
    make(path, {"a.mp4": bytes(range(256)) * 4000})
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def damaged(path: Path) -> Path:
    blob = bytearray(zipped(path, {"a.mp4": bytes(range(256)) * 4000}).read_bytes())
    blob[500] ^= 0xFF
    path.write_bytes(blob)
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "climbing": (lambda p: pack(p, {"x/../../evil.mp4": b"x"}), "leads out"),
    "absolute": (lambda p: pack(p, {"/tmp/evil.mp4": b"x"}), "leads out"),
    "climbing folder": (lambda p: pack(p, {}, [member("../evil", tarfile.DIRTYPE)]), "leads out"),
    "symbolic link": (lambda p: pack(p, {}, [member("a", tarfile.SYMTYPE, "/etc")]), "link or a device"),
    "hard link": (lambda p: pack(p, {}, [member("a", tarfile.LNKTYPE, "/etc/passwd")]), "link or a device"),
    "device": (lambda p: pack(p, {}, [member("a", tarfile.CHRTYPE)]), "link or a device"),
    "pipe": (lambda p: pack(p, {}, [member("a", tarfile.FIFOTYPE)]), "link or a device"),
    "same name twice": (twice, "occurs twice"),
    "cut short": (cut_short, "ends too early"),
    "a file that is also a folder": (lambda p: pack(p, {"a": b"x", "a/b": b"y"}), "both a file and a folder"),
    "huge header": (lambda p: pack(p, {}, [member("x" * (2 << 20))]), "broken"),
    "zip, climbing": (lambda p: zipped(p, {"../evil.mp4": b"x"}), "leads out"),
    "zip, link": (lambda p: zipped(p, {"a": b"/etc"}, {"a": stat.S_IFLNK | 0o777}), "link or a device"),
    "zip, damaged": (damaged, "broken"),
    "zip, cut short": (lambda p: cut_short(p, zipped), "broken"),
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
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / "out", tmp_path / "out" / ".MELD.lock"}


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


def test_an_encrypted_zip_is_refused_with_what_to_do(tmp_path: Path) -> None:
    blob = bytearray(zipped(tmp_path / "a.zip", {"a.mp4": b"x"}).read_bytes())
    blob[blob.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(blob)
    with pytest.raises(UserError, match=r"encrypted.*password"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_full_disk_leaves_nothing_and_says_how_much_to_free(tmp_path: Path, make_disk: Callable[[str], Path]) -> None:
    small_disk = make_disk("8m")
    noise = np.random.default_rng(1).bytes(6 << 20)
    archive = pack(tmp_path / "corpus.tar.gz", {"corpus/a.mp4": noise, "corpus/b.mp4": noise})
    with pytest.raises(UserError, match=r"disk is full.*free about [\d,]+ bytes, or give --out") as caught:
        unpack(archive, small_disk / "MELD")
    assert caught.value.place == str(small_disk / "MELD")
    zeros = pack(tmp_path / "zeros.tar.gz", {"a.mp4": bytes(9 << 20)})
    with pytest.raises(UserError, match=r"disk is full: .* after 9,437,184 of zeros"):
        unpack(zeros, small_disk / "MELD")
    assert [path.name for path in small_disk.iterdir()] == [".MELD.lock"]
    assert unpack(pack(tmp_path / "small.tar.gz", {"a.mp4": b"x"}), small_disk / "MELD") == 1


def test_a_name_too_long_and_a_file_of_another_kind_cost_one_line(tmp_path: Path) -> None:
    long = pack(tmp_path / "long.tar.gz", {"a" * 300: b"x"})
    (tmp_path / "other.tar.gz").write_bytes(b"Ra!")
    for archive, says in ((long, "its name is too long"), (tmp_path / "other.tar.gz", "broken or ends too early")):
        with pytest.raises(UserError, match=says) as caught:
            unpack(archive, tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


MACOS = {"__MACOSX/Raw/._1.mp4": b"\0\5\x16\7", "Raw/._in.tar.gz": b"\0\5\x16\7", "Raw/.DS_Store": b"\0\0\0\1Bud1"}


@pytest.mark.parametrize("make", [pack, zipped])
def test_files_that_macos_adds_are_skipped(tmp_path: Path, make: Callable[[Path, dict[str, bytes]], Path]) -> None:
    archive = make(tmp_path / "Raw.bin", {**MACOS, "Raw/1.mp4": b"clip"})
    assert unpack(archive, tmp_path / "out") == 1
    assert files_in(tmp_path / "out") == {"Raw/1.mp4": b"clip"}


def tar_with_name(path: Path, raw: bytes) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(member(raw.decode("utf-8", "surrogateescape")))
    return path


def zip_with_name(path: Path, raw: bytes, *, marked: bool) -> Path:
    """Write a zip whose one name is these bytes, marked as UTF-8 or not."""
    placeholder = "x" * len(raw)
    blob = bytearray(zipped(path, {placeholder: b"clip"}).read_bytes().replace(placeholder.encode(), raw))
    if marked:
        for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            blob[blob.index(signature) + offset + 1] |= 0x08
    path.write_bytes(blob)
    return path


NAMES = {
    "GBK": "中文/视频.mp4".encode("gbk"),
    "Latin-1": "café.mp4".encode("latin-1"),
    "cp437": "Ünï.mp4".encode("cp437"),
}


@pytest.mark.parametrize("encoding", NAMES)
@pytest.mark.parametrize("kind", ["tar", "zip", "zip marked as UTF-8"])
def test_a_name_that_is_not_utf8_is_refused_and_shown_as_other_encodings_read_it(
    tmp_path: Path, encoding: str, kind: str
) -> None:
    raw, path = NAMES[encoding], tmp_path / "corpus.tar"
    archive = tar_with_name(path, raw) if kind == "tar" else zip_with_name(path, raw, marked="marked" in kind)
    with pytest.raises(UserError, match="its name is not UTF-8") as caught:
        unpack(archive, tmp_path / "out")
    reads_right = raw.decode("gbk" if encoding == "GBK" else "cp437")
    assert repr(reads_right) in str(caught.value)
    assert "\\x" in caught.value.place
    assert not (tmp_path / "out").exists()


def test_a_zip_with_utf8_names_without_the_mark_is_unpacked(tmp_path: Path) -> None:
    archive = zip_with_name(tmp_path / "mac.zip", "Ünï/中.mp4".encode(), marked=False)
    unpack(archive, tmp_path / "out")
    assert files_in(tmp_path / "out") == {"Ünï/中.mp4": b"clip"}


@pytest.mark.parametrize(
    ("name", "blob", "says"),
    [
        ("x.rar", b"Rar!\x1a\x07\x01\0" + bytes(50), "is a RAR archive.*unrar x"),
        ("x.7z", b"7z\xbc\xaf\x27\x1c" + bytes(50), "is a 7-Zip archive.*7z x"),
        ("x.zip.001", b"PK\x07\x08" + bytes(50), "one part of a split zip archive.*all parts in one folder"),
        ("x.z01", bytes(50), r"one part \(\.z01\) of a split archive"),
        ("x.tar.gz.002", b"\x55" * 50, r"one part \(\.002\) of a split archive"),
        ("x.tar.gz", b"\n<!DOCTYPE html><html>Google Drive can't scan this file", "is a web page"),
        ("x.tar.gz", b"<html>Quota exceeded</html>", "is a web page"),
    ],
)
def test_a_file_of_another_format_is_named_for_what_it_is(tmp_path: Path, name: str, blob: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(blob)
    with pytest.raises(UserError, match=says) as caught:
        unpack(tmp_path / name, tmp_path / "out")
    assert caught.value.place == name


def test_bytes_after_the_compressed_stream_change_nothing(tmp_path: Path) -> None:
    for index, tail in enumerate((bytes(1000), b"garbage here")):
        archive = pack(tmp_path / f"{index}.tar.gz", {"a/1.mp4": b"clip"})
        archive.write_bytes(archive.read_bytes() + tail)
        assert unpack(archive, tmp_path / f"out{index}") == 1


def test_a_plain_tar_by_another_name_and_names_that_differ_in_case_are_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "plain.tar.gz", "w") as tar:
        for name in ("Raw/abcDEF/1.mp4", "Raw/ABCdef/1.mp4"):
            tar.addfile(member(name))
    assert unpack(tmp_path / "plain.tar.gz", tmp_path / "out") == 2
