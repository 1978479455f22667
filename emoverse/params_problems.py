"""Say in one sentence what is wrong with a parameter, and which known one is nearest."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from emoverse.errors import did_you_mean


def sentence(kind: Any, item: Any) -> str:
    """Return what pydantic's error ``item`` says about a section, or a mapping of sections; the key dotted."""
    dotted = ".".join(str(part) for part in item["loc"])
    if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known(kind, item["loc"][:-1])
        return f"unknown parameter {dotted!r}, {did_you_mean(str(item['loc'][-1]), known)}"
    if item["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"parameter {dotted!r} is missing"
    if item["type"] == "value_error":  # of a whole section: __post_init__ says it all
        return f"section {dotted!r}: {item['msg'].removeprefix('Value error, ')}"
    return f"parameter {dotted!r}: {item['msg']}, got {item['input']!r}"


def _known(kind: Any, path: tuple[Any, ...]) -> list[str]:
    for part in path:
        hints = kind if isinstance(kind, dict) else get_type_hints(kind) if is_dataclass(kind) else {}
        # A mapping such as corpora has no hints: its values share one type.
        kind = hints[part] if part in hints else getattr(kind, "__args__", (kind,))[0 if isinstance(part, int) else -1]
    return [f.name for f in fields(kind)] if is_dataclass(kind) else []
