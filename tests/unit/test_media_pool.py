"""A worker that hangs, dies or raises costs one item; the rest comes back complete and in order."""

import ctypes
import os
import signal
import time
from pathlib import Path

import pytest

from emoverse.media.workers import Lost, Pool

pytestmark = pytest.mark.slow


def misbehave(item: str) -> str:
    if item == "hang":
        time.sleep(60)
    if item == "hang deaf":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        time.sleep(60)
    if item == "segfault":
        ctypes.string_at(0)
    if item == "abort":
        os.abort()
    if item == "exit":
        os._exit(3)
    if item == "raise":
        raise KeyError("a fault of ours")
    if item.startswith("slow"):
        time.sleep(0.05)
    return item.upper()


def write_pid(item: str) -> int:
    Path(item).write_text(str(os.getpid()))
    time.sleep(600)
    return 0


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    items = [f"slow {n}" if n % 5 == 0 else f"quick {n}" for n in range(40)]
    pool: Pool[str, str] = Pool(misbehave, timeout=10.0, workers=workers)
    assert list(pool.map(items)) == [item.upper() for item in items]


def test_a_crash_costs_its_own_item_and_says_how_the_process_died() -> None:
    items = ["a", "segfault", "b", "abort", "c", "exit", "d"]
    results = list(Pool(misbehave, timeout=10.0, workers=2).map(items))
    assert [r for r in results if isinstance(r, str)] == ["A", "B", "C", "D"]
    lost = [r for r in results if isinstance(r, Lost)]
    assert [r.kind for r in lost] == ["crash"] * 3
    assert ["SIGSEGV" in lost[0].detail, "SIGABRT" in lost[1].detail, "code 3" in lost[2].detail] == [True] * 3


def test_a_hang_is_stopped_after_its_time_and_holds_nobody_up() -> None:
    results = list(Pool(misbehave, timeout=1.0, workers=2).map(["hang", "a", "hang deaf", "b", "c"]))
    assert results == [Lost("timeout", "no answer within 1 s"), "A", Lost("timeout", "no answer within 1 s"), "B", "C"]


def test_a_fault_of_our_own_is_raised_not_booked_as_a_bad_clip() -> None:
    with pytest.raises(RuntimeError, match="a fault of ours"):
        list(Pool(misbehave, timeout=10.0, workers=1).map(["a", "raise", "b"]))


def test_leaving_early_ends_the_workers(tmp_path: Path) -> None:
    marks = [str(tmp_path / "one"), str(tmp_path / "two")]
    results = Pool(write_pid, timeout=2.0, workers=2).map(marks)
    assert isinstance(next(results), Lost)
    results.close()
    for mark in marks:
        with pytest.raises(ProcessLookupError):
            os.kill(int(Path(mark).read_text()), 0)


def test_no_items_start_no_process() -> None:
    assert list(Pool(misbehave, timeout=1.0, workers=2).map([])) == []
