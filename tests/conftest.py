"""Fixtures that every tier shares."""

import signal
from pathlib import Path

import hypothesis
import pytest

# A shell that starts the tests in the background has them ignore Ctrl-C, and every process that they start inherits it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# no example is judged by its wall time, and a run draws the examples the last one drew
hypothesis.settings.register_profile("reproducible", deadline=None, derandomize=True)
hypothesis.settings.load_profile("reproducible")

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real annotation files, which never enter the repository; skip where it is absent."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real annotation files are not at {folder}")
    return folder
