"""Read a stage's rows and refuse, by name, whatever the trainer would drop, truncate or replace."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from swift.dataloader import BatchSamplerShard
from swift.trainers import mixin

from emoverse.errors import RowErrors, UserError
from emoverse.media.frames import FrameStore
from emoverse.prompt.encode import Encoder
from emoverse.prompt.model_settings import settings_of_model

MEDIA_TAGS: Final = {"videos": "<video>", "images": "<image>"}
# In a user's words any of these would add media or change roles: ms-swift and the tokenizer act on them.
RESERVED: Final = ("<image>", "<video>", "<audio>", "<img>", "</img>", "<IMG_CONTEXT>", "<|im_start|>", "<|im_end|>")
_ROLES: Final = ("system", "user", "assistant")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read AMT rows as the trainer takes them: ``messages``, ``videos``, ``images``, ``channel``.

    Raises UserError for a file that is missing or holds no row, and RowErrors naming each row that is not JSON, has
    other messages than system, user, assistant, repeats an id, or whose media do not match its tags.
    """
    if not path.is_file():
        raise UserError("no such file", place=str(path), remedy="run `emoverse build-amt` first")
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{path.name}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                problems.append(f"{place}: not JSON ({error})")
                continue
            problems += [f"{place}: {what}" for what in _problems(row)]
            channel = str(row.get("channel")) if isinstance(row, dict) else ""
            if seen.setdefault(channel, number) != number:
                problems.append(f"{place}: channel {channel!r} is already the id of row {seen[channel]}")
            rows.append(row)
    if problems:
        raise RowErrors(problems, remedy="run `emoverse build-amt` again")
    if not rows:
        raise UserError("holds no row", place=str(path), remedy="give the stage's mixture in params.yaml some tasks")
    return [{key: row[key] for key in ("messages", "videos", "images", "channel")} for row in rows]


def _problems(row: Any) -> list[str]:
    if not isinstance(row, dict):
        return ["not a JSON object"]
    if missing := [key for key in ("messages", "videos", "images", "channel") if key not in row]:
        return [f"no {key!r}" for key in missing]
    messages = row["messages"]
    if [message.get("role") for message in messages] != list(_ROLES):
        return ["messages are not one each of system, user, assistant"]
    found = []
    words = messages[1]["content"]
    tags = "".join(tag * len(row[key]) for key, tag in MEDIA_TAGS.items())
    if len(row["videos"]) + len(row["images"]) != 1 or not words.startswith(tags):
        found.append("shows not exactly one video or image at the start of the question")
    rest = words.removeprefix(tags)
    for part in (messages[0]["content"], rest, messages[2]["content"]):
        found += [f"the words hold {token!r}, which the model would obey" for token in RESERVED if token in part]
    return found


def check_media(rows: Sequence[dict[str, Any]], frames: FrameStore) -> None:
    """Raise RowErrors naming each row whose clip nobody validated: ms-swift would say so only when it gets there."""
    wanted = [(row["channel"], reference) for row in rows for reference in (*row["videos"], *row["images"])]
    missing = [f"{name}: {reference} is not among the frames" for name, reference in wanted if reference not in frames]
    if missing:
        raise RowErrors(missing, remedy="give --validated every corpus of the stage, from the run that build-amt read")


def frames_of_a_video(rows: Sequence[dict[str, Any]], frames: FrameStore) -> int:
    """Return how many frames a video of these rows has; 1 where they show stills alone."""
    for row in rows:
        if row["videos"]:
            return len(frames[row["videos"][0]])
    return 1


def check_lengths(rows: Sequence[dict[str, Any]], model: Path, n_frames: int, max_length: int) -> list[int]:
    """Return each row's tokens, image tokens included, as the model in folder ``model`` is fed it.

    Raises RowErrors naming each row above ``max_length``, and each whose words hold a token of this model.
    """
    encoder = Encoder(model, settings_of_model(model))
    frames = [n_frames if row["videos"] else 1 for row in rows]
    wrong = [problem for row, count in zip(rows, frames, strict=True) if (problem := _refused(encoder, row, count))]
    if wrong:
        raise RowErrors(wrong, remedy="run `emoverse build-amt` again")
    answers = {row["messages"][-1]["content"] for row in rows}
    told = {answer: len(encoder.answer_ids(answer)) for answer in answers}
    asked = [len(ids) for ids in encoder.prompt_ids(rows, frames)]
    lengths = [length + told[row["messages"][-1]["content"]] for row, length in zip(rows, asked, strict=True)]
    long = [
        f"{row['channel']}: {length} tokens, image tokens included, are more than max_length {max_length}"
        for row, length in zip(rows, lengths, strict=True)
        if length > max_length
    ]
    if long:
        raise RowErrors(long, remedy=f"set max_length to {max(lengths)} or more in params.yaml")
    return lengths


def _refused(encoder: Encoder, row: dict[str, Any], frames: int) -> str:
    try:
        encoder.prompt(row, frames)
        encoder.answer_ids(row["messages"][-1]["content"])
    except UserError as error:
        return f"{row['channel']}: {error.problem}"
    return ""


BUCKET: Final = 32
"""Tokens: rows that differ by less are mixed at random, so that batches are not the same in every epoch."""


class LengthBatches(BatchSamplerShard):  # type: ignore[misc]
    """Batches in random order, of rows of like length if wanted; all of it follows from the seed and the epoch.

    ms-swift's own sampler leaves out the rows that do not divide among the processes of several GPUs. Here a last step
    with fewer rows than processes joins the one before it, so every row is trained once and no process waits.
    """

    def __init__(self, total_samples: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(total_samples, *args, **kwargs)
        self.rows: int = total_samples

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's row numbers, batch by batch; the ranks' batches of one step are of like length, too."""
        generator = torch.Generator()
        generator.manual_seed(self.curr_seed)
        order: list[int] = torch.randperm(self.rows, generator=generator).tolist()
        if self.group_by_length:
            order.sort(key=lambda row: self.lengths[row] // BUCKET)  # stable: random within a bucket
        whole = self.batch_size * self.world_size
        count = len(self)
        steps = [order[whole * n : whole * (n + 1)] for n in range(count)]
        if not self.drop_last:
            steps[-1] += order[whole * count :]
        for number in torch.randperm(count, generator=generator).tolist():
            yield steps[number][self.rank :: self.world_size]

    def __len__(self) -> int:
        """Return how many batches each rank gets."""
        whole: int = self.batch_size * self.world_size
        count, left = divmod(self.rows, whole)
        alone = count == 0 or left >= self.world_size  # left rows that fill a step of their own, if a small one
        return count + int(bool(left) and alone and not self.drop_last)


@contextmanager
def our_batches() -> Iterator[None]:
    """Make ms-swift's trainer take its batches from LengthBatches; it has no argument for it."""
    before: Any = mixin.BatchSamplerShard
    mixin.BatchSamplerShard = LengthBatches
    try:
        yield
    finally:
        mixin.BatchSamplerShard = before
