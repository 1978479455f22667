"""Every command that the documents show in an ``sh`` block is run here, in a checkout where the main job has run."""

import re
from pathlib import Path

import pytest

from tests.factories.checkout import REPO, Checkout

pytestmark = pytest.mark.slow
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
DOCUMENTS = sorted([REPO / "README.md", *(REPO / "docs").glob("*.md")])


def commands(document: Path) -> list[str]:
    lines = [
        line.split("  #")[0].strip()
        for block in BLOCK.findall(document.read_text("utf-8"))
        for line in block.splitlines()
    ]
    return [line for line in lines if line]


def test_the_readme_shows_commands() -> None:
    assert len(commands(REPO / "README.md")) >= 6


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_of_a_document_run(repro: Checkout, document: Path) -> None:
    for line in commands(document):
        repro.run("bash", "-euc", line)


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile(repro: Checkout) -> None:
    for target in re.findall(r"^make (\w+)", (REPO / "README.md").read_text("utf-8"), re.MULTILINE):
        assert f"{target}:" in (REPO / "Makefile").read_text("utf-8")
        repro.run("make", "--dry-run", target)


def test_every_file_the_readme_links_to_exists() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
