"""`make test-fast` has a test of every package."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGES = sorted(f"emoverse.{path.parent.name}" for path in (REPO / "emoverse").glob("*/__init__.py"))
SLOW = re.compile(r"^pytestmark = .*pytest\.mark\.slow", re.MULTILINE)


def selected() -> Iterator[tuple[str, str]]:
    """Yield name and text of the test files that the target names and that are not marked as slow."""
    makefile = (REPO / "Makefile").read_text("utf-8")
    (names,) = re.findall(r"^FAST := (.*)$", makefile, re.MULTILINE)
    for name in names.split():
        for path in [REPO / name] if name.endswith(".py") else sorted((REPO / name).glob("*.py")):
            text = path.read_text("utf-8")
            if not SLOW.search(text):
                yield path.name, text


@pytest.mark.parametrize(
    "package",
    [
        *PACKAGES,
        "emoverse.budget",
        "emoverse.cli.doctor",
        "emoverse.fetching",
        "emoverse.http",
        "emoverse.prompt",
        "components",
        "pipelines",
    ],
)
def test_a_fast_test_imports(package: str) -> None:
    parent, _, name = package.rpartition(".")
    pattern = rf"(?:from|import) {re.escape(package)}\b"
    if parent:
        pattern += rf"|from {re.escape(parent)} import .*\b{name}\b"
    assert [file for file, text in selected() if re.search(pattern, text)]
