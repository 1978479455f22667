"""A cut-off or merged dvc.lock, a missing or changed object of DVC's cache: each is named with a remedy that works."""

import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from emoverse.artifacts.manifest import open_source, publish
from emoverse.cli.doctor import Finding, cache
from emoverse.errors import UserError
from tests.factories import remotes

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep")  # inside DVC
STAGES = "stages:\n  s:\n    cmd: mkdir -p out && cp raw/MELD/a.csv out/a.csv\n    deps: [raw/MELD]\n    outs: [out]\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository in which one stage has run."""
    root = remotes.repository(tmp_path_factory.mktemp("dvc") / "repository", {"a.csv": b"one", "b.csv": b"two"})
    (root / "dvc.yaml").write_text(STAGES, "utf-8")
    with pytest.MonkeyPatch.context() as patch, Repo(str(root)) as repo:
        patch.chdir(root)
        repo.reproduce()
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "repository"
    shutil.copytree(made, copy)
    for path in (copy / ".dvc/cache").rglob("*"):
        path.chmod(0o755)
    monkeypatch.chdir(copy)
    return copy


def findings(*, deep: bool = False) -> list[Finding]:
    return list(cache(Path(), deep=deep))


def object_with(root: Path, content: bytes) -> Path:
    (path,) = [p for p in (root / ".dvc/cache/files").rglob("*") if p.is_file() and p.read_bytes() == content]
    return path


def test_a_complete_cache_passes(root: Path) -> None:
    for deep in (False, True):
        (one,) = findings(deep=deep)
        assert one.ok
        assert one.found.startswith("2 of 2 outputs are complete")


@pytest.mark.parametrize("after", ["stag", "outs:\n    - path: out\n      ha", "md"])
def test_a_cut_off_lock_file_is_named_and_dvc_makes_nothing_twice(root: Path, after: str) -> None:
    lock = root / "dvc.lock"
    whole = lock.read_text("utf-8")
    lock.write_text(whole[: whole.rindex(after) + len(after)], "utf-8")
    (one,) = findings()
    assert (one.check, one.state) == ("dvc.lock", "fail")
    assert "git checkout dvc.lock" in one.remedy
    lock.unlink()  # the other way that the remedy names
    with Repo(".") as repo:
        repo.reproduce()
    assert lock.read_text("utf-8") == whole


def test_a_missing_object_is_named_with_its_command(root: Path) -> None:
    path = object_with(root, b"two")
    path.unlink()
    one = findings()[0]
    assert one.state == "fail"
    assert (
        f"1 objects of raw/MELD are missing or changed: b.csv ({path.parent.name}{path.name}) is missing" in one.found
    )
    assert "`dvc fetch raw/MELD.dvc`" in one.remedy


def test_a_flipped_byte_is_found_by_reading_which_dvc_does_not(root: Path) -> None:
    path = object_with(root, b"two")
    path.write_bytes(b"twO")
    assert findings()[-1].found.startswith("2 of 2")
    one = findings(deep=True)[0]
    assert "is changed" in one.found
    assert (
        one.remedy
        == f"remove files/md5/{path.parent.name}/{path.name} from DVC's cache and run `dvc fetch raw/MELD.dvc`"
    )


def test_a_cut_off_list_of_files_is_named_by_its_object(root: Path) -> None:
    (path,) = [p for p in (root / ".dvc/cache/files").rglob("*.dir") if b"b.csv" in p.read_bytes()]
    path.write_bytes(path.read_bytes()[:10])
    one = findings()[0]
    assert f"its own ({path.parent.name}{path.name}) is changed" in one.found
    assert one.remedy.startswith(f"remove files/md5/{path.parent.name}/{path.name} from DVC's cache and run `dvc fetch")


def test_what_was_never_pulled_is_not_a_failure(root: Path) -> None:
    shutil.rmtree(root / ".dvc/cache/files")
    assert [one.state for one in findings()] == ["none", "none", "ok"]
    assert "`dvc pull raw/MELD.dvc` brings it" in findings()[0].remedy


def test_a_flipped_byte_that_reaches_the_workspace_is_refused_by_the_next_step(tmp_path: Path) -> None:
    with publish(tmp_path / "out", step="validate", params={}, inputs={}) as draft:
        (draft.path / "rows.csv").write_bytes(b"two")
    (tmp_path / "out/rows.csv").write_bytes(b"twO")
    with pytest.raises(UserError, match=r"rows.csv changed since the step finished; .*dvc checkout --force"):
        open_source(tmp_path / "out")
