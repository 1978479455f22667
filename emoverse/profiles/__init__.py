"""Profiles: complete parameter files by name, each an overlay on ``sample.yaml`` or on another profile.

An overlay names the profile that it ``extends``, what it is ``about``, and under ``params`` the values that differ. A
value is written as the overlay has it, into the line of its key; ``null`` removes the line. Comments stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import yaml

from emoverse.config import read_yaml
from emoverse.errors import UserError, did_you_mean

BASE: Final = "sample"
# The tasks that a corpus has labels for: MELD has no cause pairs, ECF no sentiment.
# Action units can be measured in any of them.
TASKS_OF: Final = {
    "meld": ("mer", "msa", "fer", "eri"),
    "ecf": ("mer", "fer", "eri", "ecpe"),
    "mosei": ("mer", "msa", "fer", "eri"),
}
_FOLDER: Final = Path(__file__).parent
_ABOUT: Final = re.compile(r"^# Here: .*?\n(?=\n)", re.MULTILINE | re.DOTALL)
_LINE: Final = re.compile(r"(?P<indent> *)(?P<key>[\w-]+):(?P<space> *)(?P<value>[^#]*?)(?P<gap> *)(?P<comment>#.*)?")
Path_ = tuple[str, ...]


def names() -> list[str]:
    """Return the names of all profiles."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def profile_text(name: str, corpora: Sequence[str] = ()) -> str:
    """Return the complete params.yaml of a profile, for ``corpora`` alone if any are named.

    Raises UserError for an unknown profile or corpus.
    """
    if name not in names():
        raise UserError(f"unknown profile {name!r}", remedy=did_you_mean(name, names()))
    if not corpora:
        return _complete(name)
    return _apply(_complete(name), {path: value for path, value, _ in _narrowing(_params(name), corpora)})


def narrowing_notes(name: str, corpora: Sequence[str]) -> list[str]:
    """Return what a profile for ``corpora`` alone leaves out, one sentence each."""
    return [note for _, _, note in _narrowing(_params(name), corpora) if note]


def all_texts() -> set[str]:
    """Return every text that ``profile_text`` can give: a file that holds one of them holds no edits."""
    subsets = [chosen for size in range(len(TASKS_OF) + 1) for chosen in combinations(TASKS_OF, size)]
    return {profile_text(name, chosen) for name in names() for chosen in subsets}


@cache
def _params(name: str) -> dict[str, Any]:
    return dict(read_yaml(_complete(name)))


@cache
def _complete(name: str) -> str:
    text = (_FOLDER / f"{name}.yaml").read_text("utf-8")
    if name == BASE:
        return text
    overlay = read_yaml(text)
    base = _complete(overlay["extends"])
    about = "".join(f"# {line}\n" for line in f"Here: {overlay['about'].strip()}".splitlines())
    changed = _apply(base, dict(_changes(text)))
    return _ABOUT.sub(lambda _: about, changed, count=1)


def _changes(text: str) -> Iterator[tuple[Path_, str | None]]:
    """Yield the path of every value under ``params`` with its text as written; block mappings are descended into."""

    def walk(node: Any, path: Path_) -> Iterator[tuple[Path_, str | None]]:
        if isinstance(node, yaml.MappingNode) and not node.flow_style:
            for key, value in node.value:
                yield from walk(value, (*path, key.value))
        else:
            written = text[node.start_mark.index : node.end_mark.index]
            yield path, None if written == "null" else written

    root: Any = yaml.compose(text, yaml.SafeLoader)
    for key, value in root.value:
        if key.value == "params":
            yield from walk(value, ())


def _apply(text: str, changes: Mapping[Path_, str | None]) -> str:
    """Replace values by their path, comments and their columns kept; raise KeyError for a path the text lacks."""
    lines: list[str] = []
    parents: list[tuple[int, str]] = []
    left = dict(changes)
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            lines.append(line)
            continue
        indent = len(match["indent"])
        parents = [parent for parent in parents if parent[0] < indent]
        path = (*(key for _, key in parents), match["key"])
        parents.append((indent, match["key"]))
        if path not in left:
            lines.append(line)
        elif (value := left.pop(path)) is not None:
            head = f"{match['indent']}{match['key']}:{match['space'] or ' '}"
            width = len(match["value"] + match["gap"])
            shown = value if match["comment"] is None else f"{value:<{width - 1}} {match['comment']}"
            lines.append(head + shown)
    if left:
        raise KeyError(f"the base has no {', '.join('.'.join(path) for path in left)}")
    return "\n".join(lines) + "\n"


def _narrowing(params: Mapping[str, Any], corpora: Sequence[str]) -> Iterator[tuple[Path_, str | None, str]]:
    """Yield (path, value, note) of each value that changes when only ``corpora`` are there."""
    for name in corpora:
        if name not in TASKS_OF:
            raise UserError(f"unknown corpus {name!r}", place="--corpora", remedy=did_you_mean(name, TASKS_OF))
    for name in params["corpora"]:
        if name not in corpora:
            yield ("corpora", name), None, ""
    every = {name: weight for stage in ("stage1", "stage2") for name, weight in params["amt"][stage]["tasks"].items()}
    for stage in ("stage1", "stage2"):
        mixture = params["amt"][stage]
        kept = [name for name in mixture["corpora"] if name in corpora]
        lost = [name for name in mixture["corpora"] if name not in corpora]
        if lost:
            note = f"{stage}: without {', '.join(lost)}"
            if not kept:
                kept = [name for name in params["corpora"] if name in corpora]
                note += f", which was all of it; it draws on {', '.join(kept)}"
            yield ("amt", stage, "corpora"), f"[{', '.join(kept)}]", note
        supplied = {task for name in kept for task in TASKS_OF[name]}
        tasks = {name: weight for name, weight in mixture["tasks"].items() if name in supplied}
        if len(tasks) < len(mixture["tasks"]):
            gone = [name for name in mixture["tasks"] if name not in tasks]
            note = f"{stage}: without {', '.join(gone)}, for which {', '.join(kept)} has no labels"
            if not tasks:
                tasks = {name: weight for name, weight in every.items() if name in supplied}
                note += f"; it trains {', '.join(tasks)}"
            written = ", ".join(f"{name}: {weight}" for name, weight in tasks.items())
            yield ("amt", stage, "tasks"), f"{{{written}}}", note
