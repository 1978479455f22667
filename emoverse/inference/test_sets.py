"""Read AMT's test sets and prepare their rows for an engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from emoverse.errors import RowErrors, UserError
from emoverse.prompt import Encoder, Ids, Row
from emoverse.tasks import task

AmtRow = dict[str, Any]
_KEYS: Final = ("messages", "channel", "task", "corpus", "gold")


@dataclass(frozen=True)
class EvaluationSet:
    """One file ``<corpus>-<task>.jsonl`` of test rows, in the file's order."""

    name: str
    corpus: str
    task: str
    rows: tuple[AmtRow, ...]

    @property
    def golds(self) -> list[dict[str, Any]]:
        """Return each row's gold record."""
        return [row["gold"] for row in self.rows]

    @property
    def ids(self) -> list[str]:
        """Return each row's id."""
        return [str(row["channel"]) for row in self.rows]

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """Return the allowed answers, () for an open task; raise UserError when rows of one file disagree."""
        answers = {tuple(gold["answers"] or ()) for gold in self.golds}
        if len(answers) != 1:
            remedy = "build the dataset again with `emoverse build-amt`"
            raise UserError("its rows have different allowed answers", place=self.name, remedy=remedy)
        return answers.pop()


def read_sets(amt: Path, split: str = "test", *, required: bool = True) -> list[EvaluationSet]:
    """Read every set of a split (``test`` or ``validation``) of an AMT folder, in order of name.

    Raises:
        UserError: There is no test set, although ``required`` asks for one.
        RowErrors: Rows are broken, incomplete or repeated.
    """
    paths = sorted((amt / split).glob("*.jsonl"))
    if not paths and required:
        raise UserError(
            f"there is no {split}/*.jsonl in it", place=str(amt), remedy="build it with `emoverse build-amt`"
        )
    return [test_set for path in paths if (test_set := _read(path)).rows]


def _read(path: Path) -> EvaluationSet:
    rows, problems = [], []
    first_line: dict[str, int] = {}
    for number, row, problem in read_jsonl(path):
        place = f"{path.name}:{number}"
        missing = [key for key in _KEYS if key not in row]
        name = str(row.get("channel"))
        if problem or missing:
            problems.append(f"{place}: {problem or 'missing ' + ', '.join(missing)}")
        elif name in first_line:
            problems.append(f"{place}: channel: {name!r} repeats line {first_line[name]}")
        else:
            first_line[name] = number
            rows.append(row)
    if problems:
        raise RowErrors(problems, remedy="build the dataset again with `emoverse build-amt`")
    corpus, _, task = path.stem.rpartition("-")
    return EvaluationSet(path.stem, corpus, task, tuple(rows))


def read_jsonl(path: Path) -> Iterator[tuple[int, AmtRow, str]]:
    """Yield (line number, object, problem) for each non-empty line; the problem is empty for a valid line.

    A byte-order mark is ignored.

    Raises:
        UserError: The file cannot be read or is not UTF-8.
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
                if isinstance(value, dict):
                    yield number, value, ""
                else:
                    yield number, {}, "not a JSON object"
    except FileNotFoundError:
        raise UserError("no such file", place=str(path), remedy="check the path") from None
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror})", place=str(path), remedy="give a JSON-lines file"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 ({error})", place=str(path), remedy="save it as UTF-8") from None


def check_frames(sets: Sequence[EvaluationSet], frames: Container[str]) -> None:
    """Raise RowErrors listing every row whose frames are missing, before a model is loaded."""
    problems = [
        f"{test_set.name}.jsonl: {row['channel']}: no frames of {reference!r}"
        for test_set in sets
        for row in test_set.rows
        if (reference := reference_of(row)) not in frames
    ]
    if problems:
        raise RowErrors(problems, remedy="give every folder of `emoverse validate` that the dataset was built from")


def evenly_spaced(rows: Sequence[AmtRow], limit: int) -> list[AmtRow]:
    """Return at most ``limit`` rows, evenly spaced."""
    return [rows[i] for i in sorted({round(i) for i in np.linspace(0, len(rows) - 1, limit)})]


def scores_of(test_set: EvaluationSet, replies: Sequence[str]) -> tuple[str, dict[str, float]]:
    """Return the name of the headline score and all scores of replies, in the order of the rows."""
    definition = task(test_set.task)
    scorer = definition.scorer(test_set.golds)
    scores = scorer.scores(scorer.counts(replies).sum(axis=0))
    return definition.headline, {name: float(value) for name, value in scores.items()}


class Frames(Protocol):
    """Frames by reference: a ``FrameStore`` or a dictionary. One thread uses it at a time."""

    def __getitem__(self, reference: str, /) -> NDArray[np.uint8]:
        """Return uint8 RGB frames (n, height, width, 3)."""


def reference_of(row: Row) -> str:
    """Return the frame reference that a row shows; raise UserError when it shows none or several."""
    references = [*row.get("videos", ()), *row.get("images", ())]
    if len(references) != 1:
        place = str(row.get("channel", "a row"))
        raise UserError(f"it shows {len(references)} clips or images", place=place, remedy="a row shows exactly one")
    return str(references[0])


@dataclass(frozen=True)
class Prepared:
    """Rows ready for a model: token ids, the digest of each row's frames, and pixels of the digests not known yet.

    ``pixels`` are float32 (n, 3, height, width) by digest.
    """

    ids: list[Ids]
    digests: list[str]
    pixels: dict[str, NDArray[np.float32]]


class Preparer:
    """Prepare rows with a model's encoder, remembering the digest of each reference's frames."""

    def __init__(self, encoder: Encoder, frames: Frames) -> None:
        self.encoder, self.frames = encoder, frames
        self._digests: dict[str, tuple[str, int]] = {}  # reference -> digest of its pixels, number of frames

    def prepare(self, rows: Sequence[Row], indices: Sequence[int], known: Container[str]) -> Prepared:
        """Encode the prompts and frames of ``rows[i]``; frames whose digest is ``known`` are not normalised."""
        batch = [rows[index] for index in indices]
        digests, counts = [], []
        pixels: dict[str, NDArray[np.float32]] = {}
        for row in batch:
            reference = reference_of(row)
            digest, count = self._digests.get(reference, ("", 0))
            if digest not in known and digest not in pixels:
                frames = self.frames[reference]
                digest, count = self._digests[reference] = _digest(frames), len(frames)
                if digest not in known and digest not in pixels:
                    pixels[digest] = self.encoder.pixels(frames, row)
            digests.append(digest)
            counts.append(count)
        return Prepared(self.encoder.prompt_ids(batch, counts), digests, pixels)


def _digest(frames: NDArray[np.uint8]) -> str:
    return f"{frames.shape}{hashlib.blake2b(frames.tobytes(), digest_size=16).hexdigest()}"
