"""Every command that the documents show is run in a checkout where the main job has run, or says why it is not."""

import re
import shutil
from pathlib import Path

import pytest

from tests.factories.checkout import REPO, Checkout
from tests.factories.documents import DOCUMENTS, blocks, perform

pytestmark = pytest.mark.slow
WITH_COMMANDS = [path for path in DOCUMENTS if any(block.is_run for block in blocks(path))]


@pytest.fixture
def copy(repro: Checkout, tmp_path: Path) -> Checkout:
    """Return a copy of the checkout with its own params.yaml, for documents that write files into it."""
    shutil.copytree(repro.root, tmp_path / "repository", symlinks=True, ignore=shutil.ignore_patterns("scratch"))
    (tmp_path / "repository/scratch").mkdir()
    own = Checkout(tmp_path / "repository")
    own.run("git", "checkout", "--quiet", "params.yaml")
    return own


@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda path: str(path.relative_to(REPO)))
def test_what_a_document_shows_runs_and_prints_what_is_shown(
    request: pytest.FixtureRequest, repro: Checkout, document: Path
) -> None:
    writes = any(block.is_file for block in blocks(document))
    perform(document, request.getfixturevalue("copy") if writes else repro)


def test_the_make_commands_of_the_documents_are_targets_of_the_makefile(repro: Checkout) -> None:
    shown = {target for path in DOCUMENTS for target in re.findall(r"(?:^|`)make ([\w-]+)", path.read_text("utf-8"))}
    assert {"run", "test", "docs"} <= shown
    makefile = (REPO / "Makefile").read_text("utf-8")
    assert {target for target in shown if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()
    for target in ("run", "test"):
        repro.run("make", "--dry-run", target)
