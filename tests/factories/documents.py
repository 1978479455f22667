"""What the documents show in fenced blocks: which are run, which are files, which say why they are not run."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.factories.checkout import REPO, Checkout

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([^"]*)"')
DOCUMENTS = sorted([REPO / "README.md", REPO / "CONTRIBUTING.md", *(REPO / "docs").rglob("*.md")])
RUN = ("sh", "python")
SHOWN = ("text", "json", "yaml", "csv", "bibtex", "console")
WHY_NOT = re.compile(r"Not tested: .{5,}|Tested by CI")


@dataclass(frozen=True)
class Block:
    """One fenced block; ``title`` is a path for a file, ``Output`` for what the block before prints."""

    language: str
    title: str
    text: str
    line: int

    @property
    def is_file(self) -> bool:
        """Return whether the block is the content of a file that the reader writes."""
        return bool(re.fullmatch(r"[\w./-]+\.\w+", self.title))

    @property
    def is_run(self) -> bool:
        """Return whether the block is run."""
        return self.language in RUN and not self.title


def blocks(document: Path) -> list[Block]:
    """Return the fenced blocks of a document in order."""
    text = document.read_text("utf-8")
    found = []
    for match in FENCE.finditer(text):
        language, _, rest = match[1].partition(" ")
        title = TITLE.search(rest)
        found.append(Block(language, title[1] if title else "", match[2], text.count("\n", 0, match.start()) + 1))
    return found


def perform(document: Path, checkout: Checkout) -> None:
    """Do what a document shows, in a checkout: write its files, run its commands and programs, compare their output."""
    printed = ""
    for block in blocks(document):
        if block.is_file:
            path = checkout.root / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")
        elif block.is_run:
            program = ("bash", "-euc") if block.language == "sh" else ("python", "-c")
            printed = checkout.run(*program, block.text)
        elif block.title == "Output":
            assert matches(block.text, printed), f"{document.name}:{block.line}: it printed\n{printed}"


def matches(shown: str, printed: str) -> bool:
    """Return whether a text is as shown, where ``...`` stands for anything."""
    pattern = ".*".join(re.escape(part.strip()) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None
