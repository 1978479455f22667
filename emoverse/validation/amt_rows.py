"""Check AMT rows; ``build-amt`` has every file that it wrote checked before it publishes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pandas as pd

from emoverse.errors import RowErrors
from emoverse.tasks import conditions, tasks
from emoverse.validation.expectations import BETWEEN, NOT_NULL, REGEX, SET, Check, Finding, check, run_suite

ROWS: Final = 100_000  # rows checked at once, so that memory does not grow with a file
FILES: Final = ("stage*.jsonl", "test/*.jsonl", "validation/*.jsonl")
COLUMNS: Final = (
    "channel", "repeats", "task", "utterance_id", "media_count", "media", "prompt", "placeholders", "roles", "answer",
)  # fmt: skip
_MEDIA: Final = r"^clip:[^#]+(#peak)?(#blank)?$"
_SHOWN: Final = 200  # characters of a bad value


def checks() -> tuple[Check, ...]:
    """Return the suite; the tasks it knows are those of ``emoverse.tasks``."""
    names = [name for task in tasks() for name in conditions(task)]
    roles = ["system,user,assistant", "user,assistant"]
    exactly_one = {"min_value": 1, "max_value": 1}
    return (
        check(NOT_NULL, "channel", "no-id", "Every row has an id."),
        check(BETWEEN, "repeats", "duplicate-id", "Every row of a file has an id of its own.", max_value=0),
        check(SET, "task", "bad-task", f"The task is one of {', '.join(names)}.", value_set=names),
        check(
            REGEX, "utterance_id", "bad-utterance", "The row names its utterance.",
            regex=r"^[^/]+/(train|validation|test)/.+",
        ),
        check(BETWEEN, "media_count", "media-count", "A row shows exactly one video or one image.", **exactly_one),
        check(REGEX, "media", "bad-media", "Media are frame references, never files.", regex=_MEDIA),
        check(BETWEEN, "placeholders", "placeholder-count", "The prompt has one media placeholder.", **exactly_one),
        check(SET, "roles", "bad-roles", "Messages are system, user, assistant.", value_set=roles),
        check(REGEX, "prompt", "blank-prompt", "The prompt is not blank.", regex=r"\S"),
        check(NOT_NULL, "answer", "no-answer", "There is an answer."),
    )  # fmt: skip


def check_folder(folder: Path) -> list[dict[str, Any]]:
    """Check every AMT file below a folder; return each expectation with how many rows met it, for the audit.

    Raises:
        RowErrors: Rows fail an expectation; file and line are named.
    """
    findings: list[Finding] = []
    problems: list[str] = []
    for path in sorted(path for pattern in FILES for path in folder.glob(pattern)):
        seen: set[bytes] = set()
        for start, rows in _batches(path):
            part = check_amt(amt_table(rows, seen))
            findings = [_sum(*both) for both in zip(findings, part, strict=True)] if findings else part
            name = path.relative_to(folder).as_posix()
            problems += [
                f"{name}:{start + row}: {column}: check failed: {finding.check.says} ({value[:_SHOWN]})"
                for finding in part
                for column in (finding.check.settings["column"],)
                for row, value in zip(finding.rows, finding.values, strict=True)
            ]
    if problems:
        raise RowErrors(
            problems, remedy="correct the authors' file if the rows are theirs; else report an internal error"
        )
    return [finding.plain() for finding in findings]


def check_amt(table: pd.DataFrame) -> list[Finding]:
    """Check AMT rows as ``amt_table`` lays them out; a finding's rows are positions in the table."""
    return run_suite("amt", checks(), table)


def amt_table(rows: Iterable[Mapping[str, Any]], seen: set[bytes] | None = None) -> pd.DataFrame:
    """Lay out rows of AMT JSONL (docs/architecture.md) as the columns ``check_amt`` looks at.

    ``seen`` are digests of the ids that came before; those of these rows are added.
    """
    before = set() if seen is None else seen
    flat = []
    for row in rows:
        messages = row.get("messages") or []
        contents = {message.get("role"): message.get("content") for message in messages}
        media = [*(row.get("videos") or []), *(row.get("images") or [])]
        prompt = str(contents.get("user") or "")
        mark = blake2b(str(row.get("channel")).encode(), digest_size=8).digest()
        flat.append(
            {
                "channel": row.get("channel"),
                "repeats": int(mark in before),
                "task": row.get("task"),
                "utterance_id": row.get("utterance_id"),
                "media_count": len(media),
                "media": str(media[0]) if media else None,
                "prompt": prompt,
                "placeholders": prompt.count("<video>") + prompt.count("<image>"),
                "roles": ",".join(str(message.get("role")) for message in messages),
                "answer": contents.get("assistant"),
            }
        )
        before.add(mark)
    return pd.DataFrame(flat, columns=list(COLUMNS))


def _batches(path: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield a file's rows, some at a time, each time with the number of the first one's line."""
    with path.open(encoding="utf-8") as lines:
        start = 1
        while rows := [json.loads(line) for line in islice(lines, ROWS)]:
            yield start, rows
            start += len(rows)


def _sum(first: Finding, second: Finding) -> Finding:
    return replace(first, success=first.success and second.success, checked=first.checked + second.checked)
