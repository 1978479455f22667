"""Killed, on a full disk, or twice at once: no half-written output is ever taken for a finished one."""

import functools
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emoverse.amt.records import write_records
from emoverse.artifacts.manifest import open_source, publish, write_json
from emoverse.errors import UserError

BODY = """
import sys, time
from pathlib import Path
from emoverse.artifacts.manifest import publish
out, text, hold = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with publish(out, step="validate", params={}, inputs={}) as draft:
    for n in range(20):
        (draft.path / f"{n}.txt").write_text(text)
        if hold == "body" and n == 10:
            print("ready", flush=True); time.sleep(60)
    if hold == "swap":
        import emoverse.artifacts.manifest as m
        m._exchange = lambda one, other: False  # as on a file system without renameat2
        rename = Path.rename
        def slow(self, target):
            if self.name.endswith(".partial"):
                print("ready", flush=True); time.sleep(60)
            return rename(self, target)
        Path.rename = slow
"""


def start(out: Path, text: str, hold: str) -> subprocess.Popen[str]:
    """Publish in a process of its own, which stops where ``hold`` says and prints a line there."""
    process = subprocess.Popen([sys.executable, "-c", BODY, str(out), text, hold], stdout=subprocess.PIPE, text=True)
    if hold != "nowhere":
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return process


def finish(out: Path, text: str) -> None:
    assert start(out, text, "nowhere").wait(30) == 0


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


@pytest.mark.parametrize("hold", ["body", "swap"])
def test_a_killed_run_keeps_the_earlier_output_and_the_next_one_ends_as_if_undisturbed(
    tmp_path: Path, hold: str
) -> None:
    out, twin = tmp_path / "out", tmp_path / "twin"
    finish(out, "earlier")
    kill(start(out, "killed", hold))
    if hold == "body":
        assert (out / "3.txt").read_text("utf-8") == "earlier"
    finish(out, "later")
    finish(twin, "later")
    assert open_source(out).digest == open_source(twin).digest
    assert (out / "manifest.json").read_bytes() == (twin / "manifest.json").read_bytes()
    assert sorted(p.name for p in tmp_path.glob(".out.*")) == [".out.lock"]


def test_the_earlier_output_comes_back_when_the_run_after_a_kill_fails_too(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finish(out, "earlier")
    kill(start(out, "killed", "swap"))  # between the two renames: the earlier output has been moved aside
    assert not out.exists()
    with pytest.raises(RuntimeError), publish(out, step="validate", params={}, inputs={}):
        raise RuntimeError("fails as well")
    assert (out / "3.txt").read_text("utf-8") == "earlier"
    open_source(out)


def test_a_first_run_that_is_killed_leaves_nothing_that_passes_for_finished(tmp_path: Path) -> None:
    out = tmp_path / "out"
    kill(start(out, "killed", "body"))
    with pytest.raises(UserError, match="no such folder"):
        open_source(out)
    with pytest.raises(UserError, match="unfinished"):
        open_source(tmp_path / ".out.partial")


def test_the_second_of_two_runs_at_once_says_who_holds_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = start(out, "first", "body")
    try:
        with pytest.raises(UserError) as caught, publish(out, step="validate", params={}, inputs={}):
            pytest.fail("two runs wrote one folder at once")
        assert f"process {first.pid}" in str(caught.value)
        assert "`emoverse validate`" in str(caught.value)
        assert (tmp_path / ".out.partial/3.txt").read_text("utf-8") == "first"  # the holder's draft was not touched
    finally:
        kill(first)
    finish(out, "after")  # a dead holder's lock holds nobody up


def test_a_full_disk_is_named_with_bytes_and_leaves_the_earlier_output(make_disk: Callable[[str], Path]) -> None:
    small_disk = make_disk("256k")
    out = small_disk / "out"
    with publish(out, step="validate", params={}, inputs={}) as draft:
        (draft.path / "good.txt").write_text("good", "utf-8")
    before = open_source(out).digest
    with pytest.raises(UserError) as caught, publish(out, step="validate", params={}, inputs={}) as draft:
        (draft.path / "big.bin").write_bytes(bytes(1 << 20))
    assert "the disk is full" in str(caught.value)
    assert str(out) in str(caught.value)
    assert "free more than" in str(caught.value)
    assert open_source(out).digest == before
    assert not (small_disk / ".out.partial").exists()


def test_a_disk_without_a_single_byte_left_is_named_too(make_disk: Callable[[str], Path]) -> None:
    small_disk = make_disk("64k")
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with (
        pytest.raises(UserError, match=r"out: the disk is full"),
        publish(small_disk / "out", step="validate", params={}, inputs={}) as draft,
    ):
        (draft.path / "one.txt").write_text("x", "utf-8")
    with pytest.raises(UserError, match=r"p\.json: the disk is full"):
        write_records(small_disk / "p.json", [b"x" * 9999])
    assert not list(small_disk.glob("p.json*"))


@pytest.mark.parametrize("linked", ["out", "parent"])
def test_an_output_behind_a_link_is_published_through_the_link(tmp_path: Path, linked: str) -> None:
    big_disk = tmp_path / "big disk"
    (big_disk / "data").mkdir(parents=True)
    if linked == "out":
        (tmp_path / "data").mkdir()
        (tmp_path / "data/amt").symlink_to(big_disk / "data/amt")  # which does not exist yet
    else:
        (tmp_path / "data").symlink_to(big_disk / "data")
    out = tmp_path / "data/amt"
    for text in ("first", "second", "third"):
        finish(out, text)
        assert (big_disk / "data/amt/0.txt").read_text("utf-8") == text
        assert open_source(out).digest == open_source(big_disk / "data/amt").digest
    assert (tmp_path / "data/amt" if linked == "out" else tmp_path / "data").is_symlink()
    assert (tmp_path / "data/amt.run.json").is_file()
    assert [path.name for path in (big_disk / "data").iterdir() if path.name.endswith((".partial", ".old"))] == []


def test_a_link_to_an_input_is_an_input(tmp_path: Path) -> None:
    finish(tmp_path / "real", "input")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    inputs = {"source": open_source(tmp_path / "real")}
    with (
        pytest.raises(UserError, match="overlaps the input 'source'"),
        publish(tmp_path / "link", step="validate", params={}, inputs=inputs),
    ):
        pass
    assert open_source(tmp_path / "real").digest == inputs["source"].digest


def test_many_threads_write_one_json_file_and_each_leaves_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    values = [{"reply": "x" * 1000, "n": n} for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(functools.partial(write_json, path), values))
    assert json.loads(path.read_text("utf-8")) in values
    assert [name.name for name in tmp_path.iterdir()] == ["answers.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, {"score": float("-inf")}]])
def test_a_number_that_json_does_not_have_is_never_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "metrics.json", value)
    assert list(tmp_path.iterdir()) == []
