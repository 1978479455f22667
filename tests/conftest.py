"""Fixtures that every tier shares."""

from pathlib import Path

import hypothesis
import pytest

# no example is judged by its wall time, and a run draws the examples the last one drew
hypothesis.settings.register_profile("house", deadline=None, derandomize=True)
hypothesis.settings.load_profile("house")

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real annotation files, which never enter the repository; skip where it is absent."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real annotation files are not at {folder}")
    return folder
