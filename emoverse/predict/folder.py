"""Read what an exported folder says about how its model is asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emoverse.errors import UserError, did_you_mean
from emoverse.inference.encode import Row
from emoverse.inference.onnx_engine import SETTINGS
from emoverse.manifest import open_source
from emoverse.params import MediaParams, parse

PROMPTS: Final = "prompts.json"
_CORPORA: Final = ("meld", "ecf", "mosei")  # whose way of asking is preferred: clips before stills
_AGAIN: Final = "export the model again, with --amt and --validated"


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How one task is asked: the messages before the question, its pattern, the allowed answers, () for an open task.

    ``template`` holds ``{words}`` where the person's words go, None for a task about a whole dialogue. ``media`` is
    ``video`` or ``image``. ``example`` is a question of the test set.
    """

    task: str
    corpus: str
    answers: tuple[str, ...]
    media: str
    template: str | None
    system: str | None
    example: str

    def row(self, question: str, reference: str, channel: str) -> Row:
        """Return the row that puts a question about the clip behind a frame reference."""
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        shown = [reference] if self.media == "video" else [f"{reference}#peak"]
        return {
            "messages": [*before, {"role": "user", "content": question}],
            "videos": shown if self.media == "video" else [],
            "images": shown if self.media == "image" else [],
            "channel": channel,
        }


@dataclass(frozen=True)
class Exported:
    """An exported folder: how its frames are made, how each task is asked, how long a reply may be."""

    folder: Path
    media: MediaParams
    asking: dict[str, Asking]
    max_new_tokens: int

    def asked(self, task: str) -> Asking:
        """Return how a task is asked; raise UserError when the model never was."""
        try:
            return self.asking[task]
        except KeyError:
            raise UserError(
                f"this model was not asked task {task!r}", place="--task", remedy=did_you_mean(task, self.asking)
            ) from None


def read_export(folder: Path) -> Exported:
    """Read an exported folder, checking every byte against its manifest.

    Raises UserError when it is missing, unfinished, changed, no export, or was exported without a dataset.
    """
    open_source(folder, made_by="export")
    try:
        settings = json.loads((folder / SETTINGS).read_text("utf-8"))
        entries = json.loads((folder / PROMPTS).read_text("utf-8"))
        media, limit = settings["media"], int(settings["generation"]["max_new_tokens"])
        asking = [_asking(entry) for entry in entries.values()]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        problem = f"not an export of this version ({type(error).__name__}: {error})"
        raise UserError(problem, place=str(folder), remedy=_AGAIN) from error
    if media is None:
        raise UserError(
            "it was exported without a dataset: nobody knows its questions", place=str(folder), remedy=_AGAIN
        )
    best: dict[str, Asking] = {}
    for one in sorted(asking, key=_preference):
        best.setdefault(one.task, one)
    return Exported(folder, parse(MediaParams, media, place=str(folder / SETTINGS)), best, limit)


def _asking(entry: dict[str, Any]) -> Asking:
    *before, question = entry["messages"]
    return Asking(
        task=entry["task"],
        corpus=entry["corpus"],
        answers=tuple(entry["answers"]),
        media=entry["media"],
        template=entry["template"],
        system=str(before[0]["content"]) if before else None,
        example=str(question["content"]),
    )


def _preference(one: Asking) -> tuple[bool, int, str]:
    known = _CORPORA.index(one.corpus) if one.corpus in _CORPORA else len(_CORPORA)
    return one.media != "video", known, one.corpus
