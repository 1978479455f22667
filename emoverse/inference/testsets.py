"""Read the test sets of an AMT folder."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from emoverse.errors import RowErrors, UserError
from emoverse.inference.prepare import reference_of

Row = dict[str, Any]
_KEYS: Final = ("messages", "channel", "task", "corpus", "gold")


@dataclass(frozen=True)
class EvaluationSet:
    """One file ``<corpus>-<task>.jsonl`` of test rows, in the file's order."""

    name: str
    corpus: str
    task: str
    rows: tuple[Row, ...]

    @property
    def golds(self) -> list[dict[str, Any]]:
        """Return each row's gold record."""
        return [row["gold"] for row in self.rows]

    @property
    def ids(self) -> list[str]:
        """Return each row's id."""
        return [str(row["channel"]) for row in self.rows]

    @cached_property  # asked for once a row
    def answers(self) -> tuple[str, ...]:
        """Return the allowed answers, () for an open task; raise UserError when rows of one file disagree."""
        found = {tuple(gold["answers"] or ()) for gold in self.golds}
        if len(found) != 1:
            remedy = "build the dataset again with `emoverse build-amt`"
            raise UserError("its rows have different allowed answers", place=self.name, remedy=remedy)
        return found.pop()


def read_sets(amt: Path) -> list[EvaluationSet]:
    """Read every test set of an AMT folder, in order of name.

    Raises UserError when there is none, RowErrors listing every broken, empty-handed or repeated row.
    """
    paths = sorted((amt / "test").glob("*.jsonl"))
    if not paths:
        raise UserError("it holds no test/*.jsonl", place=str(amt), remedy="build it with `emoverse build-amt`")
    found = [_read(path) for path in paths]
    return [one for one in found if one.rows]


def _read(path: Path) -> EvaluationSet:
    rows, problems = [], []
    seen: dict[str, int] = {}
    for number, row, problem in read_jsonl(path):
        place = f"{path.name}:{number}"
        missing = [key for key in _KEYS if key not in row]
        name = str(row.get("channel"))
        if problem or missing:
            problems.append(f"{place}: {problem or 'missing ' + ', '.join(missing)}")
        elif name in seen:
            problems.append(f"{place}: channel: {name!r} is row {seen[name]} already")
        else:
            seen[name] = number
            rows.append(row)
    if problems:
        raise RowErrors(problems, remedy="build the dataset again with `emoverse build-amt`")
    corpus, _, task = path.stem.rpartition("-")
    return EvaluationSet(path.stem, corpus, task, tuple(rows))


def read_jsonl(path: Path) -> Iterator[tuple[int, Row, str]]:
    """Yield (line number, object, problem) for each non-empty line; the problem is empty for a good line.

    Raises UserError when the file cannot be read or is not UTF-8; a byte-order mark is passed over.
    """
    try:
        with path.open(encoding="utf-8-sig") as handle:
            for number, line in enumerate(handle, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield number, {}, f"not valid JSON ({error})"
                    continue
                good = isinstance(value, dict)
                yield number, value if good else {}, "" if good else "not a JSON object"
    except FileNotFoundError:
        raise UserError("no such file", place=str(path), remedy="check the path") from None
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror})", place=str(path), remedy="give a JSON-lines file"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 ({error})", place=str(path), remedy="save it as UTF-8") from None


def check_frames(sets: Sequence[EvaluationSet], frames: Container[str]) -> None:
    """Raise RowErrors listing every row whose clip is not among the frames, before a model is asked anything."""
    problems = [
        f"{one.name}.jsonl: {row['channel']}: no frames of {reference!r}"
        for one in sets
        for row in one.rows
        if (reference := reference_of(row)) not in frames
    ]
    if problems:
        raise RowErrors(problems, remedy="give every folder of `emoverse validate` that the dataset was built from")
