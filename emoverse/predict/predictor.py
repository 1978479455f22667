"""Answer questions about a clip: sentiment and emotion with probabilities, facial expression, reason."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from emoverse.errors import UserError
from emoverse.evaluation.calibration import posterior
from emoverse.export.asking import WORDS
from emoverse.inference.load import Answers
from emoverse.inference.onnx_engine import onnx_engine
from emoverse.predict.clips import Limits, Look, look, warm
from emoverse.predict.folder import Asking, Exported, read_export
from emoverse.tasks import task
from emoverse.tasks.labels import word_of
from emoverse.tasks.text import MUTED, neutralise

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
