"""Read a stage's rows and refuse those that the trainer would drop, truncate or replace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from emoverse.errors import RowErrors, UserError
from emoverse.inference.test_sets import EvaluationSet, check_frames, read_sets
from emoverse.media.frames import FrameStore
from emoverse.prompt import Encoder, settings_of_model

MEDIA_TAGS: Final = {"videos": "<video>", "images": "<image>"}
# In a transcript any of these would add media or change roles: ms-swift and the tokenizer act on them.
RESERVED: Final = ("<image>", "<video>", "<audio>", "<img>", "</img>", "<IMG_CONTEXT>", "<|im_start|>", "<|im_end|>")
_ROLES: Final = ("system", "user", "assistant")
_KEYS: Final = ("messages", "videos", "images", "channel")
_REBUILD: Final = "run `emoverse build-amt` again"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read AMT rows as the trainer takes them: ``messages``, ``videos``, ``images``, ``channel``.

    Raises:
        UserError: The file is missing or empty.
        RowErrors: Rows are not JSON, have other messages than system, user, assistant, repeat an id, or their media
            do not match their tags.
    """
    if not path.is_file():
        raise UserError("no such file", place=str(path), remedy="run `emoverse build-amt` first")
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{path.name}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                problems.append(f"{place}: not JSON ({error})")
                continue
            problems += [f"{place}: {problem}" for problem in _problems(row)]
            channel = str(row.get("channel")) if isinstance(row, dict) else ""
            if first_line.setdefault(channel, number) != number:
                problems.append(f"{place}: channel {channel!r} repeats line {first_line[channel]}")
            rows.append(row)
    if problems:
        raise RowErrors(problems, remedy=_REBUILD)
    if not rows:
        raise UserError("no rows", place=str(path), remedy="give the stage's mixture in params.yaml some tasks")
    return [{key: row[key] for key in _KEYS} for row in rows]


def _problems(row: Any) -> list[str]:
    if not isinstance(row, dict):
        return ["not a JSON object"]
    if missing := [key for key in _KEYS if key not in row]:
        return [f"no {key!r}" for key in missing]
    messages = row["messages"]
    if [message.get("role") for message in messages] != list(_ROLES):
        return ["messages are not one each of system, user, assistant"]
    problems = []
    question = messages[1]["content"]
    tags = "".join(tag * len(row[key]) for key, tag in MEDIA_TAGS.items())
    if len(row["videos"]) + len(row["images"]) != 1 or not question.startswith(tags):
        problems.append("does not show exactly one video or image at the start of the question")
    for text in (messages[0]["content"], question.removeprefix(tags), messages[2]["content"]):
        problems += [f"the text contains the control token {token!r}" for token in RESERVED if token in text]
    return problems


def check_media(rows: Sequence[dict[str, Any]], frames: FrameStore) -> None:
    """Raise RowErrors naming each row without frames; ms-swift would fail only when it reaches that row."""
    references = [(row["channel"], reference) for row in rows for reference in (*row["videos"], *row["images"])]
    missing = [f"{name}: no frames of {reference}" for name, reference in references if reference not in frames]
    if missing:
        raise RowErrors(missing, remedy="give --validated every corpus of the stage, from the run that build-amt read")


def frames_of_a_video(rows: Sequence[dict[str, Any]], frames: FrameStore) -> int:
    """Return the number of frames of a video in these rows; 1 where they show only stills."""
    videos = (row["videos"][0] for row in rows if row["videos"])
    first = next(videos, None)
    return 1 if first is None else len(frames[first])


def check_lengths(rows: Sequence[dict[str, Any]], model: Path, n_frames: int, max_length: int) -> list[int]:
    """Return each row's tokens, image tokens included, as the model receives it.

    Args:
        rows: The rows.
        model: The model folder.
        n_frames: Number of frames of a video.
        max_length: Tokens that a row may have.

    Raises:
        RowErrors: Rows are longer than ``max_length``, or their text contains a control token of this model.
    """
    encoder = Encoder(model, settings_of_model(model))
    frames = [n_frames if row["videos"] else 1 for row in rows]
    problems = [problem for row, count in zip(rows, frames, strict=True) if (problem := _problem(encoder, row, count))]
    if problems:
        raise RowErrors(problems, remedy=_REBUILD)
    answers = {row["messages"][-1]["content"] for row in rows}
    answer_lengths = {answer: len(encoder.answer_ids(answer)) for answer in answers}
    prompts = encoder.prompt_ids(rows, frames)
    lengths = [
        len(ids) + answer_lengths[row["messages"][-1]["content"]] for row, ids in zip(rows, prompts, strict=True)
    ]
    too_long = [
        f"{row['channel']}: {length} tokens, image tokens included, are more than max_length {max_length}"
        for row, length in zip(rows, lengths, strict=True)
        if length > max_length
    ]
    if too_long:
        raise RowErrors(too_long, remedy=f"set max_length to {max(lengths)} or more in params.yaml")
    return lengths


def validation_sets(amt: Path, rows: Sequence[Mapping[str, Any]], frames: FrameStore) -> list[EvaluationSet]:
    """Return the validation sets of the corpora and tasks that a stage's rows come from.

    Raises:
        RowErrors: Rows are broken, or their frames are missing.
    """
    pairs = {tuple(row["channel"].split("/")[:2]) for row in rows}
    sets = [item for item in read_sets(amt, "validation", required=False) if (item.task, item.corpus) in pairs]
    check_frames(sets, frames)
    return sets


def step_sizes(rows: int, batch_size: int, ranks: int) -> list[int]:
    """Return the number of rows of each step of an epoch, at most ``batch_size`` for each of ``ranks`` processes.

    Rows are left over when they do not divide. If they are fewer than the processes, the step before gives them some,
    so that no process gets an empty batch. With ``batch_size`` 1 it has none to give: the last step is then smaller
    than ``ranks`` and `LengthBatches` repeats rows of it.
    """
    whole = batch_size * ranks
    full, left = divmod(rows, whole)
    sizes = [whole] * full
    if full and 0 < left < ranks and whole + left >= 2 * ranks:
        return [*sizes[:-1], whole + left - ranks, ranks]
    return [*sizes, left] if left else sizes


def repeated_rows(rows: int, batch_size: int, ranks: int) -> int:
    """Return how many rows of an epoch are trained a second time in its last step."""
    return max(0, ranks - min(step_sizes(rows, batch_size, ranks), default=ranks))


def _problem(encoder: Encoder, row: dict[str, Any], frames: int) -> str:
    try:
        encoder.prompt(row, frames)
        encoder.answer_ids(row["messages"][-1]["content"])
    except UserError as error:
        return f"{row['channel']}: {error.problem}"
    return ""
