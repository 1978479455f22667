"""The documents: every block is run or says why not, commands and options exist, links lead somewhere."""

import argparse
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from scripts.reference import parsers
from tests.factories.checkout import REPO
from tests.factories.documents import DOCUMENTS, RUN, SHOWN, WHY_NOT, blocks, matches

ALL = [*DOCUMENTS, REPO / "SECURITY.md", REPO / "data/raw/sample/README.md"]
named = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))


def test_the_readme_shows_commands() -> None:
    assert sum(block.is_run for block in blocks(REPO / "README.md")) >= 6


@named
def test_a_block_that_is_not_run_says_why(document: Path) -> None:
    for block in blocks(document):
        place = f"{document.name}:{block.line}"
        assert block.language in (*RUN, *SHOWN), f"{place}: name the block's language, console for commands"
        if block.language == "console" or (block.language in RUN and block.title and not block.is_file):
            assert WHY_NOT.fullmatch(block.title), f'{place}: write title="Not tested: REASON"'


@cache
def options(name: str) -> set[str]:
    parser: argparse.ArgumentParser = parsers()[name]
    return {option for action in parser._actions for option in action.option_strings} | {"--debug", "--help"}


def commands(text: str) -> list[list[str]]:
    """Return the words of each `emoverse COMMAND ...` in blocks and inline code."""
    joined = text.replace("\\\n", " ")
    lines = re.findall(r"^(?:\$ )?(emoverse [a-z][^\n]*)$", joined, re.MULTILINE) + re.findall(
        r"`(emoverse [a-z][^`]*)`", joined
    )
    return [shlex.split(re.split(r"  #|\|\||;| &|>", line)[0], posix=True) for line in lines]


@named
def test_commands_and_options_exist(document: Path) -> None:
    for words in commands(document.read_text("utf-8")):
        name = words[1]
        assert name in parsers(), f"{document.name}: {' '.join(words)}"
        unknown = {word.partition("=")[0] for word in words[2:] if word.startswith("--")} - options(name)
        assert not unknown, f"{document.name}: {' '.join(words)}"


@pytest.mark.parametrize("document", ALL, ids=lambda path: str(path.relative_to(REPO)))
def test_every_file_that_is_linked_exists(document: Path) -> None:
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert (document.parent / target).exists(), f"{document.name}: {target}"


@named
def test_every_file_that_is_named_in_code_exists(document: Path) -> None:
    for name in re.findall(
        r"`((?:emoverse|tests|scripts|pipelines|components|docs)/[\w./-]+\.\w+)`", document.read_text("utf-8")
    ):
        assert (REPO / name).exists(), f"{document.name}: {name}"


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [("a ... c", "a b c\n", True), ("a\n...", "a\nb", True), ("a", "a b", False), ("a (...) b", "a (1) b", True)],
)
def test_an_output_is_compared_with_what_is_shown(shown: str, printed: str, same: bool) -> None:
    assert matches(shown, printed) is same
