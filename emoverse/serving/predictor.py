"""Answer questions about a clip: sentiment and emotion with probabilities, facial expression, reason."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from emoverse.artifacts.manifest import open_source
from emoverse.config import MediaParams, parse
from emoverse.errors import UserError, did_you_mean
from emoverse.evaluation.intervals import posterior
from emoverse.export.parity import WORDS
from emoverse.inference.onnx_engine import SETTINGS, onnx_engine
from emoverse.inference.torch_engine import Answers
from emoverse.prompt.encode import Row
from emoverse.serving.clips import Limits, Look, look, warm
from emoverse.tasks import task
from emoverse.tasks.base import MUTED, neutralise
from emoverse.tasks.replies import word_of

LONGEST: Final = 4000  # characters of a person's words
BATCH: Final = 8  # questions asked at once


@dataclass(frozen=True)
class Answer:
    """What the model says to one task.

    ``reply`` is a label's word (``joy``) or the model's own words; ``probabilities`` maps every label's word to its
    probability, in the prompt's order, and is empty where the reply was generated freely.
    """

    task: str
    title: str
    question: str
    reply: str
    probabilities: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the answer as JSON-like values."""
        found: dict[str, Any] = {"title": self.title, "reply": self.reply}
        if self.probabilities:
            found["probabilities"] = {name: round(share, 4) for name, share in self.probabilities.items()}
        return found


@dataclass(frozen=True)
class Prediction:
    """What the model says about a clip, by task, and what it saw: RGB frames (n, height, width, 3) and a still."""

    clip: str
    seconds: float
    frames: NDArray[np.uint8]
    still: NDArray[np.uint8]
    answers: dict[str, Answer]

    def as_json(self) -> dict[str, Any]:
        """Return all but the pictures as JSON-like values."""
        told = {name: answer.as_json() for name, answer in self.answers.items()}
        return {"clip": self.clip, "seconds": round(self.seconds, 3), "frames": len(self.frames), "answers": told}


class Shown(dict[str, NDArray[np.uint8]]):
    """The frames of the clips being asked about, by reference; each showing has a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def add(self, seen: Look) -> str:
        """Show a clip; return its reference."""
        self._count += 1
        name = f"clip:{self._count}"
        self[name], self[f"{name}#peak"] = seen.frames, seen.still[None]
        return name

    def forget(self, reference: str) -> None:
        """Let go of a clip's frames."""
        del self[reference], self[f"{reference}#peak"]


class Predictor:
    """An exported model, ready to be asked; calls from several threads take turns."""

    def __init__(self, exported: Exported, engine: Answers, shown: Shown, limits: Limits) -> None:
        self.exported, self.engine, self.shown, self.limits = exported, engine, shown, limits
        self._turn = threading.Lock()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that can be asked about one clip, in order of name."""
        return tuple(sorted(name for name, one in self.exported.asking.items() if one.template is not None))

    def clip(self, path: Path, text: str = "", tasks: Sequence[str] = ()) -> Prediction:
        """Ask about one clip and the words spoken in it, all tasks that take a clip unless told which.

        Raises UserError for a clip that cannot be used, for words that are too long, and for an unknown task.
        """
        asked = [self._of_a_clip(name) for name in tasks or self.tasks]
        words = spoken(text)
        seen = look(path, self.exported.media, self.limits)
        found = self.ask(seen, [(one, str(one.template).replace(WORDS, words)) for one in asked])
        return Prediction(path.name, seen.seconds, seen.frames, seen.still, {one.task: one for one in found})

    def _of_a_clip(self, name: str) -> Asking:
        one = self.exported.asked(name)
        if one.template is None:
            problem = f"task {name!r} is about a whole dialogue, not about one clip"
            raise UserError(problem, place="--task", remedy="give a dialogue's JSON file instead of a clip")
        return one

    def ask(self, seen: Look, asked: Sequence[tuple[Asking, str]]) -> list[Answer]:
        """Ask questions about one clip, each (how, question); those with the same allowed answers together."""
        with self._turn:
            reference = self.shown.add(seen)
            try:
                return self._answers(asked, reference)
            finally:
                self.shown.forget(reference)

    def _answers(self, asked: Sequence[tuple[Asking, str]], reference: str) -> list[Answer]:
        rows = [one.row(question, reference, f"{one.task} of {reference}") for one, question in asked]
        kinds: dict[tuple[str, ...], list[int]] = {}
        for index, (one, _) in enumerate(asked):
            kinds.setdefault(one.answers, []).append(index)
        found: dict[int, Answer] = {}
        for answers, places in kinds.items():
            chosen = [rows[i] for i in places]
            told = self._closed(chosen, answers) if answers else self._open(chosen)
            for i, (reply, shares) in zip(places, told, strict=True):
                one, question = asked[i]
                found[i] = Answer(one.task, task(one.task).title, question, reply, shares)
        return [found[i] for i in range(len(asked))]

    def _closed(self, rows: Sequence[Any], answers: tuple[str, ...]) -> list[tuple[str, dict[str, float]]]:
        sums, chosen = self.engine.judged(rows, answers)
        names = [word_of(answer) for answer in answers]
        shares = posterior(sums)
        return [
            (names[taken], dict(zip(names, (float(share) for share in row), strict=True)))
            for taken, row in zip(chosen, shares, strict=True)
        ]

    def _open(self, rows: Sequence[Any]) -> list[tuple[str, dict[str, float]]]:
        return [(reply, {}) for reply in self.engine.generate(rows, self.exported.max_new_tokens)]


def spoken(text: str) -> str:
    """Return a person's words as they go into a prompt, unable to add media or roles; ``...`` where there are none.

    Raises UserError when they are longer than LONGEST characters, or were no UTF-8 on the command line.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError("not UTF-8", place="the words", remedy="give them in a terminal or a file of that encoding")
    if len(text) > LONGEST:
        problem = f"{len(text):,} characters, the limit is {LONGEST:,}"
        raise UserError(problem, place="the words", remedy="give what is said in this clip only")
    return neutralise(text.strip()) or MUTED


def load(folder: Path, limits: Limits | None = None, precision: str | None = None) -> Predictor:
    """Open the folder of an export, in one of its precisions, its first unless told otherwise.

    Raises UserError when it is missing, unfinished, changed, or holds a graph that cannot be opened.
    """
    warm()  # the decoder's process imports its libraries while this one opens the graphs
    shown = Shown()
    exported = read_export(folder)
    engine = onnx_engine(folder, shown, batch_size=BATCH, precision=precision)
    return Predictor(exported, engine, shown, limits or Limits())


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
