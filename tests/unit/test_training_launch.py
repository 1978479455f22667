"""Which of several processes is named when all of them fell, and in what words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from emoverse.errors import UserError
from emoverse.training.launch import failure_of


def ended(exitcode: int, timestamp: int = 100) -> Any:
    return SimpleNamespace(exitcode=exitcode, timestamp=timestamp)


def fault(words: str, at: float) -> dict[str, Any]:
    return {"failed": {"error": words, "traceback": f"Traceback ...\n{words}", "at": at}}


def test_a_killed_process_is_named_and_not_the_one_that_lost_its_connection(tmp_path: Path) -> None:
    (tmp_path / "stderr-1.txt").write_bytes(b"first\nterminate called \xff\n\n")
    lost = {0: fault("RuntimeError: connection closed", 100.5)}
    error = failure_of({0: ended(1), 1: ended(-6)}, lost, tmp_path, 2)
    assert isinstance(error, UserError)
    assert str(error) == (
        "rank 1 of 2: ended by SIGABRT, so training stopped; last stderr line: 'terminate called \ufffd'; "
        "check its stderr, and run again"
    )


def test_a_fault_is_named_and_not_the_process_that_the_launcher_ended_for_it(tmp_path: Path) -> None:
    failures = {1: ended(1), 0: ended(-9, timestamp=130)}
    error = failure_of(failures, {1: fault("ValueError: no such row", 99.9)}, tmp_path, 2)
    assert isinstance(error, RuntimeError)
    assert str(error) == "rank 1 of 2: ValueError: no such row"
    assert "Traceback" in error.__notes__[0]


def test_of_two_faults_the_first_is_named(tmp_path: Path) -> None:
    failures = {0: ended(1), 1: ended(1)}
    outcomes = {0: fault("RuntimeError: connection reset", 100.4), 1: fault("KeyError: 'x'", 100.1)}
    assert str(failure_of(failures, outcomes, tmp_path, 2)) == "rank 1 of 2: KeyError: 'x'"


def test_a_process_that_left_without_a_word_is_named_with_its_code(tmp_path: Path) -> None:
    error = failure_of({2: ended(3)}, {}, tmp_path, 4)
    assert str(error) == "rank 2 of 4 ended with code 3; no output"
