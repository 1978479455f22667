"""Digests of files, folders and values; the code of a step, through its imports, with the data files it names."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from emoverse.artifacts.digests import (
    NO_INFLUENCE,
    canonical,
    code_digest,
    digest_of_files,
    digest_of_raw,
    digest_of_value,
    files_named_by,
    fingerprints,
    folder_files,
    library_versions,
    modules_digest,
    reachable_modules,
)
from emoverse.errors import UserError
from emoverse.registry import STEPS, Step

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


BEFORE = '''"""Docstring."""

from emoverse.shared import limit


def scale(x: float) -> float:
    """Scale."""
    return limit(2 * x)  # twice
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Make a package in which `train` imports `shared`, and `late` inside a function; nothing imports `other`."""
    root = tmp_path / "emoverse"
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "train.py").write_text(
        BEFORE + "\n\ndef slow() -> None:\n    from emoverse import late\n\n    late.run()\n"
    )
    (root / "shared.py").write_text("def limit(x: float) -> float:\n    return min(x, 1.0)\n")
    (root / "late.py").write_text('TEXT = "words.txt"\n\n\ndef run() -> None:\n    print(TEXT)\n')
    (root / "other.py").write_text("X = 1\n")
    (root / "words.txt").write_text("joy\n")
    (root / "notes.txt").write_text("unused\n")
    return root


def digest(package: Path) -> str:
    return modules_digest(["emoverse.train"], package)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("shared.py", "def limit(x: float) -> float:\n    return min(x, 2.0)\n"),
        ("late.py", 'TEXT = "words.txt"\n\n\ndef run() -> None:\n    print(TEXT, TEXT)\n'),
        ("words.txt", "sadness\n"),
        ("train.py", BEFORE.replace("2 * x", "3 * x")),
    ],
)
def test_a_change_of_behaviour_changes_the_digest(package: Path, file: str, text: str) -> None:
    before = digest(package)
    (package / file).write_text(text)
    assert digest(package) != before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("shared.py", '"""New."""\n\n\ndef limit(x: float) -> float:\n    """Cap."""\n    return min(x, 1.0)  # why\n'),
        ("shared.py", "def limit(x: float) -> float:\n    return min(\n        x,\n        1.0,\n    )\n"),
        ("other.py", "X = 2\n"),
        ("notes.txt", "changed\n"),
    ],
)  # fmt: skip
def test_comments_docstrings_layout_and_unused_modules_change_nothing(package: Path, file: str, text: str) -> None:
    before = digest(package)
    (package / file).write_text(text)
    assert digest(package) == before


def test_a_text_that_is_the_name_of_a_folder_beside_the_module_is_no_data_file(package: Path) -> None:
    (package / "amt").mkdir()
    (package / "amt/rows.txt").write_text("one")
    (package / "shared.py").write_text('KEY = "amt"\n')
    before = digest(package)
    (package / "amt/rows.txt").write_text("two")
    assert digest(package) == before


def test_an_import_for_type_checkers_alone_is_not_followed(package: Path) -> None:
    source = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from emoverse.other import X\n"
    (package / "shared.py").write_text(source)
    assert "emoverse.other" not in reachable_modules(["emoverse.train"], package)


def test_a_module_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"no module .emoverse\.attic."):
        reachable_modules(["emoverse.attic"])


@pytest.mark.parametrize("step", STEPS)
def test_the_code_of_a_step_is_found(step: str) -> None:
    assert len(code_digest(step)) == 64


def test_every_module_without_influence_exists() -> None:
    package = Path(__file__).resolve().parents[2]
    missing = [
        name
        for name in NO_INFLUENCE
        if not (package / (name.replace(".", "/") + ".py")).is_file()
        and not (package / name.replace(".", "/") / "__init__.py").is_file()
    ]
    assert missing == []


def test_a_library_that_is_not_installed_has_no_version() -> None:
    assert library_versions(["torch", "no-such-library"])["no-such-library"] is None
    assert library_versions(["torch"])["torch"]


def test_the_content_of_a_file_that_a_parameter_names_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    reasons = tmp_path / "reasons.jsonl"
    reasons.write_text("one\n")
    params = {"amt": {"reasons": "file:reasons.jsonl"}}
    before = fingerprints(params, tmp_path)
    reasons.write_text("two\n")
    after = fingerprints(params, tmp_path)
    assert [step for step in before if before[step] != after[step]] == ["build-amt"]
    assert fingerprints({"amt": {"reasons": "rules"}}, tmp_path)["build-amt"]["files"] == {}


@pytest.mark.parametrize("prefix", ["file", "endpoint"])
@pytest.mark.parametrize(
    ("step", "parameter"),
    [(step, parameter) for step in STEPS.values() for parameter in step.file_parameters],
    ids=lambda value: getattr(value, "name", value),
)
def test_files_of_every_prefix_are_digested(tmp_path: Path, step: Step, parameter: str, prefix: str) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("model: a\n")
    params: Any = f"{prefix}:settings.yaml"
    for part in reversed(parameter.split(".")):
        params = {part: params}
    before = files_named_by(step, params, tmp_path)
    assert before == {parameter: hashlib.sha256(b"model: a\n").hexdigest()}
    settings.write_text("model: b\n")
    assert files_named_by(step, params, tmp_path) != before


def test_a_value_with_a_colon_and_another_prefix_names_no_file(tmp_path: Path) -> None:
    assert files_named_by(STEPS["build-amt"], {"amt": {"reasons": "rules:v1"}}, tmp_path) == {}


def test_a_parameter_that_names_a_missing_file_is_refused(tmp_path: Path) -> None:
    for prefix in ("file", "endpoint"):
        with pytest.raises(UserError, match=r"amt\.reasons: .*nowhere\.jsonl: no such file"):
            fingerprints({"amt": {"reasons": f"{prefix}:nowhere.jsonl"}}, tmp_path)
