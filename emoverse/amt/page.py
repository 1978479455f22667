"""Show the audit and the floors on one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

_COMMON: Final = 7


def write_page(path: Path, audit: Mapping[str, Any], baselines: Mapping[str, Any]) -> None:
    """Write the page; everything from the data is escaped."""
    environment = Environment(
        loader=PackageLoader("emoverse.amt", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("page.html.jinja")
    path.write_text(page.render(audit=audit, baselines=baselines, common=_common), "utf-8")


def _common(answers: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the commonest answers, short ones whole."""
    return [
        (answer if len(answer) <= 40 else answer[:39] + "…", count) for answer, count in list(answers.items())[:_COMMON]
    ]
