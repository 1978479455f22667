"""Fixtures that every tier shares."""

import builtins
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# A shell that starts the tests in the background has them ignore Ctrl-C, and every process that they start inherits it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# no example is judged by its wall time, and a run draws the examples the last one drew
hypothesis.settings.register_profile("reproducible", deadline=None, derandomize=True)
hypothesis.settings.load_profile("reproducible")

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _print_restored() -> Iterator[None]:
    """Undo what kfp's local runner may leave: its tasks replace ``print`` by an indented one, several at a time."""
    before = builtins.print
    yield
    builtins.print = before


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all files that share the main job to one process, early: it then runs once, and no process waits for it."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "tests/e2e" if file.startswith("tests/e2e/") and not file.endswith("test_profiles.py") else file

    config.option.loadscopereorder = False  # in the order of collection, not by the number of tests
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real annotation files, which never enter the repository; skip where it is absent."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real annotation files are not at {folder}")
    return folder
