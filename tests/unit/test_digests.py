"""Equal content has an equal digest, and a raw folder's MD5 is the one that DVC gives it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from emoverse.artifacts.digests import (
    canonical,
    digest_of_files,
    digest_of_raw,
    digest_of_value,
    folder_files,
)
from emoverse.errors import UserError

TREE = {
    "a.txt": b"one\n",
    "deep/er/b.bin": bytes(range(256)) * 9,
    "deep.er/c.txt": b"",  # sorts before "deep/" as a string and after it as path parts
    "deep-er/d.txt": b"two",
    "with space/é-ü-日本.txt": b"three",
    "-iRBcNs9oI8.txt": b"a name that looks like an option",
    "128258": b"a name that looks like a number",
    ".hidden": b"four",
}


def grow(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(TREE[name])
    return root


def test_the_digest_of_a_folder_ignores_the_order_its_files_were_made_in(tmp_path: Path) -> None:
    names = list(TREE)
    one, two = grow(tmp_path / "one", names), grow(tmp_path / "two", names[::-1])
    assert folder_files(one) == folder_files(two)
    assert digest_of_raw(one) == digest_of_raw(two)


@pytest.mark.parametrize("change", ["byte", "name", "extra", "missing"])
def test_every_kind_of_change_changes_the_digest(tmp_path: Path, change: str) -> None:
    root = grow(tmp_path / "raw", list(TREE))
    before = digest_of_raw(root)
    if change == "byte":
        (root / "a.txt").write_bytes(b"onf\n")
    elif change == "name":
        (root / "a.txt").rename(root / "b.txt")
    elif change == "extra":
        (root / "z").write_bytes(b"")
    else:
        (root / "deep.er/c.txt").unlink()
    after = digest_of_raw(root)
    assert after[0] != before[0]
    assert after[1] != before[1]


def test_two_files_cannot_swap_bytes_unnoticed() -> None:
    assert digest_of_files({"a": "1", "b": "2"}) != digest_of_files({"a": "2", "b": "1"})


def test_the_folder_digest_is_sha256_over_sorted_pairs_of_path_and_sha256() -> None:
    expected = hashlib.sha256(b"a\x001\nb\x002\n").hexdigest()
    assert digest_of_files({"b": "2", "a": "1"}) == expected


def test_the_md5_of_a_raw_folder_is_the_one_dvc_add_writes(tmp_path: Path) -> None:
    root = grow(tmp_path / "raw", list(TREE))
    dvc = [sys.executable, "-m", "dvc"]
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    for command in (["init", "--no-scm", "--quiet"], ["add", "--quiet", "raw"]):
        subprocess.run([*dvc, *command], cwd=tmp_path, env=env, check=True)
    (out,) = yaml.safe_load((tmp_path / "raw.dvc").read_text("utf-8"))["outs"]
    assert digest_of_raw(root)[1] == out["md5"]


def test_a_canonical_value_has_sorted_keys_and_keeps_unicode() -> None:
    assert canonical({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'
    assert digest_of_value({"b": 1, "a": 2}) == digest_of_value({"a": 2, "b": 1})


def test_a_name_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(bytes(tmp_path) + b"/\xff.mp4")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(UserError, match=r"b'\\xff\.mp4'"):
        folder_files(tmp_path)
