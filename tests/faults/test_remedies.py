"""Remedies that messages print are run as printed, and work. Checks write nothing."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

from emoverse.artifacts.digests import digest_of_raw
from emoverse.cli.doctor import cache, raw_data
from emoverse.errors import UserError
from emoverse.fetching import check_complete, fetch, resolve
from tests.factories import remotes
from tests.factories.remotes import Remote

REPO = Path(__file__).resolve().parents[2]
STAGES = (
    "stages:\n"
    "  one:\n    cmd: mkdir -p one && cp raw/MELD/a.csv one/a.csv\n    deps: [raw/MELD]\n    outs: [one]\n"
    "  two:\n    cmd: mkdir -p two && cp one/a.csv two/a.csv\n    deps: [one]\n    outs: [two]\n"
)
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep")  # inside DVC


def run(command: str, folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def run_remedy(remedy: str, folder: Path) -> None:
    """Run each command that the remedy has in backticks."""
    commands = re.findall(r"`([^`]+)`", remedy)
    assert commands, remedy
    for command in commands:
        run(command, folder)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a repository whose remote is a folder beside it."""
    root = remotes.repository(tmp_path / "repository", {"a.csv": b"one", "b.csv": b"two"})
    remotes.use(root, Remote(str(tmp_path / "store")))
    (root / "dvc.yaml").write_text(STAGES, "utf-8")
    remotes.git(root, "add", "-A")
    remotes.git(root, "commit", "-qm", "remote and stages")
    return root


def test_a_repository_without_git(root: Path) -> None:
    md5 = resolve("raw/MELD", repository=root).md5
    shutil.rmtree(root / ".git")
    with pytest.raises(UserError, match="leave --rev out, or run in a git checkout"):
        resolve("raw/MELD", repository=root, revision="HEAD")
    with pytest.raises(UserError, match=r"core\.no_scm") as caught:
        resolve("raw/MELD", repository=root)
    run_remedy(caught.value.remedy, root)
    assert resolve("raw/MELD", repository=root).md5 == md5


def test_a_revision_that_a_shallow_clone_lacks(root: Path, tmp_path: Path) -> None:
    first = remotes.git(root, "rev-parse", "HEAD~1")
    run(f"git clone -q --depth 1 file://{root} clone", tmp_path)
    clone = tmp_path / "clone"
    with pytest.raises(UserError, match="this clone is shallow") as caught:
        resolve("raw/MELD", repository=clone, revision=first)
    run_remedy(caught.value.remedy, clone)
    assert resolve("raw/MELD", repository=clone, revision=first).md5 == resolve("raw/MELD", repository=root).md5


def test_a_lock_file_that_a_merge_left_in_conflict(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, Repo(str(root)) as repo:
        patch.chdir(root)
        repo.reproduce()
    remotes.git(root, "add", "-A")
    remotes.git(root, "commit", "-qm", "a run")
    remotes.git(root, "checkout", "-qb", "other", "HEAD~1")
    lock = root / "dvc.lock"
    whole = remotes.git(root, "show", "HEAD@{1}:dvc.lock")
    lock.write_text(re.sub(r"size: (\d+)", r"size: 1\1", whole, count=1) + "\n", "utf-8")
    remotes.git(root, "add", "-A")
    remotes.git(root, "commit", "-qm", "another run")
    command = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@x.org", "merge", "-q", "HEAD@{2}"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1, "the merge conflicts"
    assert "<<<<<<<" in lock.read_text("utf-8")
    (finding,) = cache(root, deep=False)
    with pytest.raises(UserError, match="a merge left conflict markers in it") as caught:
        resolve("raw/MELD", repository=root)
    assert finding.remedy == caught.value.remedy
    run_remedy(finding.remedy, root)
    assert [finding.state for finding in cache(root, deep=True)] == ["ok"]


@pytest.mark.parametrize("name", [".DS_Store", "train/.nfs00000000012a0d5e00000001", "._a.csv", "Thumbs.db"])
def test_a_file_that_a_file_manager_left_in_a_raw_corpus(tmp_path: Path, name: str) -> None:
    raw = tmp_path / "raw corpus"
    remotes.write(raw, {"a.csv": b"1", "train/a.mp4": b"2"})
    md5 = digest_of_raw(raw)[1]
    remotes.write(raw, {name: b"x"})
    with pytest.raises(UserError, match="which the corpus lacks") as caught:
        fetch("meld", md5, tmp_path / "out", root=str(raw))
    run(f"rm {caught.value.remedy.removeprefix('remove ').partition(', which')[0]}", tmp_path)
    assert fetch("meld", md5, tmp_path / "out", root=str(raw))["files"] == 2


def test_doctor_s_advice_in_a_fresh_clone(root: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, Repo(str(root)) as repo:
        patch.chdir(root)
        repo.reproduce()
    remotes.git(root, "add", "-A")
    remotes.git(root, "commit", "-qm", "a run")
    for last_first in (False, True):
        clone = tmp_path / f"clone{last_first:d}"
        run(f"git clone -q {root} {clone}", tmp_path)
        advice = [finding for finding in cache(clone, deep=False) if not finding.ok]
        assert [finding.state for finding in advice] == ["none"] * 3
        for finding in reversed(advice) if last_first else advice:
            run_remedy(finding.remedy, clone)
        assert [finding.state for finding in cache(clone, deep=True)] == ["ok"]


@pytest.mark.parametrize("deep", [False, True])
def test_a_check_changes_nothing_in_a_folder_remote(root: Path, tmp_path: Path, deep: bool) -> None:
    (path,) = [p for p in (tmp_path / "store").rglob("*") if p.is_file() and p.read_bytes() == b"two"]
    path.chmod(0o644)
    path.write_bytes(b"changed")
    before = {p: (p.stat(), p.is_file() and p.read_bytes()) for p in sorted((tmp_path / "store").rglob("*"))}
    tracked = resolve("raw/MELD", repository=root)
    if deep:
        with pytest.raises(UserError, match=r"b.csv: the object \w+ has other content .*run `dvc push`"):
            check_complete(tracked, deep=True)
    else:
        assert check_complete(tracked) == 2
    list(raw_data(root, REPO / "params.yaml", deep=deep))
    after = {p: (p.stat(), p.is_file() and p.read_bytes()) for p in sorted((tmp_path / "store").rglob("*"))}
    assert {p: (s.st_mode, s.st_mtime_ns, b) for p, (s, b) in before.items()} == {
        p: (s.st_mode, s.st_mtime_ns, b) for p, (s, b) in after.items()
    }


def test_a_clone_with_autocrlf_keeps_the_bytes_of_the_committed_remote(tmp_path: Path) -> None:
    run(f"git clone -q --depth 1 -c core.autocrlf=true file://{REPO} clone", tmp_path)
    files = [p for p in (tmp_path / "clone/data/remote/files/md5").rglob("*") if p.is_file()]
    assert len(files) > 500
    for path in files:
        md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        assert md5 == (path.parent.name + path.name).removesuffix(".dir")


def test_a_download_on_a_full_disk_names_the_bytes_and_leaves_the_rest_for_the_next_run(
    root: Path, tmp_path: Path, make_disk: Callable[[str], Path]
) -> None:
    remotes.write(root / "raw/MELD", {f"clip{n}.mp4": bytes([n]) * 40_000 for n in range(10)})
    remotes.track(root)
    with Repo(str(root)) as repo:
        repo.push()
    tracked = resolve("raw/MELD", repository=root)
    for tenth in range(1, 11):
        disk = make_disk(f"{tenth * 40}k")
        with pytest.raises(UserError) as caught:
            fetch("meld", tracked.md5, disk / "raw", remote=json.dumps({"url": str(tmp_path / "store")}))
        assert str(disk / "raw") in str(caught.value)
        found = re.search(r"full: (\d+) files with ([\d,]+) bytes are missing.*; make \2 bytes free", str(caught.value))
        assert found, str(caught.value)
        assert int(found[2].replace(",", "")) == 40_000 * int(found[1]), "what the finished files take is not asked for"
        assert not (disk / "raw").exists()
