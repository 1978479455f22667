"""Decoders that abort or hang, runs that are killed: one clip is lost at most, and nothing is done twice."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emoverse.artifacts.manifest import open_source, publish
from emoverse.config import MediaParams, load_params
from emoverse.errors import UserError
from emoverse.media.extract import JOURNAL, Record, extract, records
from emoverse.media.workers import Done, Lost, Task, process
from emoverse.validation.validate import validate
from tests.factories.clips import cut, write_clip
from tests.factories.meld import clip, make_meld

REPO = Path(__file__).resolve().parents[2]
MEDIA = MediaParams(frames=4, size=32, timeout=20.0)


def task(path: Path, **changes: object) -> Task:
    settings = {"clip_id": path.stem, "clip": path.name, "path": path, "units": None, "params": MEDIA, **changes}
    return Task(**settings)  # type: ignore[arg-type]


def read_or_fail(task: Task) -> Done | Lost:
    """Read a clip as validation does, but fail first as a decoder or a machine would; the clip's name says how."""
    kind, _, rest = task.clip_id.partition("-")
    hurried = task.patience == 1
    if kind == "abort" and (hurried or rest == "always"):
        os.abort()
    if kind == "hang" and (hurried or rest == "always"):
        time.sleep(600)
    if kind == "kill" and (hurried or rest == "always"):
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "memory" and (hurried or rest == "always"):
        raise MemoryError
    if kind == "import":
        import a_library_that_is_missing  # noqa: F401
    if kind == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp")
    return process(task)


def extract_all(folder: Path, names: list[str], **changes: object) -> dict[str, Record]:
    media = MediaParams(frames=4, size=32, timeout=3.0)
    tasks = [task(write_clip(folder / f"{name}.mp4"), params=media) for name in names]
    extract(tasks, folder / "out", fingerprint="x", workers=2, read=read_or_fail, patience=5.0, **changes)  # type: ignore[arg-type]
    found = list(records(folder / "out"))
    assert [record.clip_id for record in found] == names
    return {record.clip_id: record for record in found}


def test_a_clip_on_which_a_decoder_aborts_or_hangs_costs_itself_only(tmp_path: Path) -> None:
    found = extract_all(tmp_path, ["a", "abort-always", "b", "hang-always", "c"])
    assert all(found[name].probe is not None for name in "abc")
    assert found["abort-always"].failure == (
        "clip-crashed-decoder",
        "the process was killed by SIGABRT; alone: the process was killed by SIGABRT",
    )
    assert found["hang-always"].failure == (
        "clip-timeout",
        "no answer within 3 s; alone: no answer within 15 s",
    )


def test_a_clip_that_a_quiet_machine_reads_is_never_set_aside_by_a_busy_one(tmp_path: Path) -> None:
    found = extract_all(tmp_path, ["a", "abort-once", "hang-once", "kill-once", "memory-once", "b"])
    assert all(record.failure is None for record in found.values())
    assert all(len(record.slots) == 5 for record in found.values())


@pytest.mark.parametrize("kind", ["kill-always", "memory-always"])
def test_want_of_memory_stops_the_step_and_names_the_clip(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match="the machine cannot decode it") as caught:
        extract_all(tmp_path, ["a", kind, "b"])
    assert caught.value.place == f"{kind}.mp4"
    assert "free some memory" in str(caught.value)


def test_a_library_that_is_missing_stops_the_step_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be imported: No module named 'a_library_that_is_missing'"):
        extract_all(tmp_path, ["a", "import", "b"])


def test_a_full_disk_under_a_worker_stops_the_step(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        extract_all(tmp_path, ["a", "disk", "b"])
    assert caught.value.errno == errno.ENOSPC


def test_a_resumed_run_tries_again_what_was_given_up(tmp_path: Path) -> None:
    names = ["a", "abort-always", "b", "hang-always", "c"]
    extract_all(tmp_path, names)
    media = MediaParams(frames=4, size=32, timeout=20.0)
    tasks = [task(tmp_path / f"{name}.mp4", params=media) for name in names]
    # The cause is gone: the usual reader reads them. What came before them need not be read again.
    assert extract(tasks, tmp_path / "out", fingerprint="x", workers=1) == 1
    assert all(record.failure is None for record in records(tmp_path / "out"))
    extract(tasks, tmp_path / "calm", fingerprint="x", workers=2)
    assert (tmp_path / "calm" / "00000.tar").read_bytes() == (tmp_path / "out" / "00000.tar").read_bytes()


def test_mutilated_clips_never_stop_the_run_and_frames_stay_in_range(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    sources = [write_clip(tmp_path / "s.mp4", sound=True, faststart=True), write_clip(tmp_path / "s.mkv")]
    tasks = []
    for number in range(60):
        source = sources[number % 2]
        blob = np.frombuffer(source.read_bytes(), np.uint8).copy()
        places = rng.integers(8, 1200, rng.integers(1, 10))  # the headers, where a byte matters most
        blob[places] = rng.integers(0, 256, len(places))
        path = tmp_path / f"{number:02d}{source.suffix}"
        path.write_bytes(blob.tobytes())
        tasks.append(task(path))
    extract(tasks, tmp_path / "out", fingerprint="x", workers=2)
    found = list(records(tmp_path / "out"))
    assert len(found) == 60
    assert 0 < sum(record.probe is not None for record in found) < 60
    for record in found:
        assert (record.probe is None) == (record.failure is not None)
        assert all(0 <= frame < record.probe.frames for _, _, frame, _ in record.slots if record.probe)


# The command line, which holds still after the twentieth clip: however fast the machine, it is killed half-way.
HELD = """
import itertools, sys, time
import emoverse.media.extract as extract
from emoverse.cli import main
line_of, clips = extract.line_of, itertools.count(1)
def held(record):
    if next(clips) > 20:
        time.sleep(600)
    return line_of(record)
extract.line_of = held
sys.exit(main())
"""


def start(raw: Path, out: Path) -> subprocess.Popen[bytes]:
    words = ["validate", "--corpus", "meld", "--raw", str(raw), "--out", str(out), "--workers", "2"]
    words += ["--params", str(REPO / "params.yaml")]
    return subprocess.Popen([sys.executable, "-c", HELD, *words], cwd=REPO, stderr=subprocess.DEVNULL)


def wait_for(condition: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    raw = make_meld(tmp_path / "MELD", {"train": 20, "dev": 6, "test": 6})
    clip(raw, 0, 1).write_bytes(b"")
    out, journal = tmp_path / "out", tmp_path / ".out.scratch" / JOURNAL
    run = start(raw, out)
    wait_for(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 20)
    children = _descendants(run.pid)
    run.kill()
    run.wait()
    assert len(children) >= 2
    wait_for(lambda: not any(_alive(pid) for pid in children))  # no worker is left behind
    assert not out.exists()
    finished = journal.read_bytes().count(b"\n") - 1
    assert finished == 20
    with journal.open("a") as handle:
        handle.write('{"clip_id": "half a li')  # and the kill came while a line was being written
    params = load_params(REPO / "params.yaml")
    validate("meld", raw, out, params.media, params.validation, workers=1)
    assert json.loads((tmp_path / "out.run.json").read_text())["resumed_clips"] == finished
    validate("meld", raw, tmp_path / "calm", params.media, params.validation, workers=2)
    assert open_source(out).digest == open_source(tmp_path / "calm").digest


def test_a_changed_corpus_is_not_mixed_with_what_a_killed_run_left(tmp_path: Path) -> None:
    tasks = [task(write_clip(tmp_path / f"{name}.mp4")) for name in "abc"]
    out = tmp_path / "out"
    assert extract(tasks, out, fingerprint="one", workers=1) == 0
    assert extract(tasks, out, fingerprint="one", workers=1) == 3
    assert extract(tasks, out, fingerprint="two", workers=1) == 0
    (out / "00000.tar").write_bytes(b"")  # the power went before the shard was on disk
    assert extract(tasks, out, fingerprint="two", workers=1) == 0
    assert len(list(records(out))) == 3


def test_of_two_runs_in_one_place_the_second_says_who_is_there(tmp_path: Path) -> None:
    raw, out = make_meld(tmp_path / "MELD"), tmp_path / "out"
    params = load_params(REPO / "params.yaml")
    with publish(out, step="validate", params={}, inputs={}) as draft:
        with pytest.raises(UserError, match=rf"being written by .*process {os.getpid()}"):
            validate("meld", raw, out, params.media, params.validation, workers=1)
        (draft.path / "mine").write_text("undisturbed")
    assert (out / "mine").read_text() == "undisturbed"


def test_a_full_disk_keeps_the_finished_clips_and_says_how_much_to_free(
    tmp_path: Path, make_disk: Callable[[str], Path]
) -> None:
    raw = make_meld(tmp_path / "MELD", {"train": 30, "dev": 5, "test": 5})
    disk = make_disk("250k")  # the frames of all 40 clips need twice that
    out = disk / "out"
    params = load_params(REPO / "params.yaml", {"media.size": 96})
    with pytest.raises(UserError, match=r"(\d+) of 40 clips are done .*about [\d,]+ more needed") as caught:
        validate("meld", raw, out, params.media, params.validation, workers=1)
    assert caught.value.place == str(out)
    assert re.search(
        r"free [\d,]+ bytes there and run again, .*or give it up: rm -r .*\.out\.scratch", str(caught.value)
    )
    done = int(re.search(r"(\d+) of 40", str(caught.value))[1])  # type: ignore[index]
    assert 0 < done < 40
    assert not out.exists()
    assert not (disk / ".out.partial").exists()
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    validate("meld", raw, out, params.media, params.validation, workers=1)
    assert json.loads((disk / "out.run.json").read_text())["resumed_clips"] == done
    validate("meld", raw, tmp_path / "calm", params.media, params.validation, workers=1)
    assert open_source(out).digest == open_source(tmp_path / "calm").digest


def test_a_truncated_clip_is_quarantined_with_the_bytes_it_lacks(tmp_path: Path) -> None:
    raw = make_meld(tmp_path / "MELD")
    cut(clip(raw, 0, 0), 0.5)
    params = load_params(REPO / "params.yaml", {"validation.max_quarantined": 0.5})
    validate("meld", raw, tmp_path / "out", params.media, params.validation, workers=1)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    (row,) = summary["quarantine_sample"]
    assert row["reason"] == "clip-truncated"
    assert "the file lacks" in row["detail"]
    assert row["source"].startswith("train_sent_emo.csv:2")


def _descendants(pid: int) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *_descendants(int(child))]
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
