"""Fill the generated parts of the documentation site: a hook of MkDocs.

A page asks for generated text by a line ``<!-- generated: NAME -->``. GitHub shows the page without it, the site with
it, so that no copy can be out of date.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
MARK = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)


def generators() -> dict[str, Callable[[], str]]:
    """Return what generates each part, by its name."""
    if str(REPO) not in sys.path:
        sys.path.insert(0, str(REPO))
    names = ("reference", "messages", "python_reference")
    reference, messages, python_reference = (importlib.import_module(f"scripts.{name}") for name in names)
    return {
        "parameters": reference.parameters,
        "commands": reference.commands,
        "steps": reference.steps,
        "tables": reference.tables,
        "python": python_reference.python,
        "profiles": reference.profiles,
        "tasks": reference.tasks,
        "messages": messages.as_markdown,
        "quarantine": messages.quarantine,
    }


def fill(markdown: str) -> str:
    """Return a page with its generated parts; raise KeyError for a part that nothing generates."""
    return MARK.sub(lambda match: generators()[match[1]](), markdown)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill a page before MkDocs renders it, so that its links and anchors are checked too."""
    return fill(markdown) if MARK.search(markdown) else markdown
