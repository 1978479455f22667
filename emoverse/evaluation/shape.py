"""Say what is wrong with the shape of a row in somebody's predictions or gold file, before scoring relies on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

LABEL_KEYS: Final = ("labels", "label")
_TEXTS: Final = ("channel", "corpus", "task", "query", "utterance_id")


def wrong_prediction(row: Mapping[str, Any]) -> str:
    """Return what keeps a row from being a prediction, empty for a good one."""
    if not isinstance(row.get("response"), str):
        return "response: no reply of the model"
    gold, told = row.get("gold"), label_of(row)
    if told is None and not (isinstance(gold, dict) and "answer" in gold):
        return "labels: no right answer"
    if isinstance(gold, dict) and told is not None and gold.get("answer", told) != told:
        return f"labels: {told!r}, but its own gold says {gold['answer']!r}"
    return wrong_shape(row)


def wrong_record(row: Mapping[str, Any]) -> str:
    """Return what keeps a row from being a gold record: ours, or one of the authors' with its ``response``."""
    gold = row.get("gold")
    known = isinstance(gold, dict) and "answer" in gold
    if not known and not isinstance(row.get("response"), str):
        return "gold: no right answer"
    return wrong_shape(row)


def label_of(row: Mapping[str, Any]) -> str | None:
    """Return the right answer that ms-swift wrote beside the reply, None where it wrote none."""
    return next((row[key] for key in LABEL_KEYS if isinstance(row.get(key), str)), None)


def wrong_shape(row: Mapping[str, Any]) -> str:
    """Return what is of another kind than ms-swift's rows and ours have it, empty when nothing is."""
    for key in _TEXTS:
        if not isinstance(row.get(key) or "", str):
            return f"{key}: {row[key]!r} is no text"
    if not _is_messages(row.get("messages") or []):
        return "messages: not a list of objects with role and content"
    for key in ("videos", "images"):
        if not _is_media(row.get(key) or []):
            return f"{key}: neither a path nor a list of paths"
    gold = row.get("gold")
    if gold is not None and not isinstance(gold, dict):
        return "gold: not an object with answer"
    return ""


def wrong_gold(own: Mapping[str, Any], read: Mapping[str, Any]) -> str:
    """Return which key of a row's own gold is of another kind than in the task's ``read`` one, empty when none is.

    Where the task read nothing (no target, no list of answers), a number, a text or a list of texts may stand.
    """
    for key in sorted(own.keys() & {*read, "group"}):
        needed = key == "answer" or (isinstance(read.get(key), list) and key != "answers")
        if not _is_like(own[key], read.get(key)) and (needed or own[key] is not None):
            return f"gold.{key}: {own[key]!r} is not what the task keeps there"
    return ""


def _is_like(value: object, model: object) -> bool:
    texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
    if isinstance(model, list):
        return texts
    return texts or type(value) in (int, str) if model is None else type(value) is type(model)


def _is_messages(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and isinstance(one.get("content"), str) and isinstance(one.get("role"), str)
        for one in value
    )


def _is_media(value: object) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(isinstance(one, str) or (isinstance(one, dict) and _is_text(one.get("path"))) for one in items)


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)
