"""Show the audit and the floors on one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

_COMMON: Final = 7
_SHORT: Final = 40


def write_page(path: Path, audit: Mapping[str, Any], baselines: Mapping[str, Any]) -> None:
    """Write the page; everything from the data is escaped. No script: a sandboxed iframe shows all of it."""
    environment = Environment(
        loader=PackageLoader("emoverse.amt", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["count"] = lambda value: f"{value:,}"
    records = sum(test["records"] for test in baselines.values())
    page = environment.get_template("page.html.jinja")
    text = page.render(audit=audit, baselines=baselines, records=records, common=_common)
    path.write_text(text, "utf-8", newline="\n")


def _common(file: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the commonest answers of a file; none of sentences, of which each is nearly its own."""
    found = list(file["answers"].items())[:_COMMON]
    return found if all(len(answer) <= _SHORT for answer, _ in found) else []
