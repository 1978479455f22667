"""Read somebody's dialogue, and ask for the causes of every emotion in it.

The file is JSON: ``{"utterances": [{"speaker": "Ada", "text": "...", "clip": "a.mp4", "emotion": "joy"}, ...]}``. A
clip's path is relative to the file. Where an emotion is not given, the model is asked for it first, as the question
about causes may print every utterance's emotion (the authors' does).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from emoverse.config import parse
from emoverse.corpora.base import EMOTIONS, Utterance
from emoverse.errors import UserError, did_you_mean
from emoverse.export.parity import WORDS
from emoverse.serving.clips import Look, look
from emoverse.serving.predictor import LONGEST, Answer, Predictor, spoken
from emoverse.tasks import task
from emoverse.tasks.ecpe import line, parse_pairs, prompt

MOST: Final = 64  # utterances
_frozen = checked(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))


@_frozen
class Line:
    """One utterance of a dialogue file."""

    text: str = Field(max_length=LONGEST)
    speaker: str = Field(default="Speaker", max_length=100)
    clip: str | None = None
    emotion: str | None = None


@_frozen
class _File:
    utterances: list[Line] = Field(min_length=1, max_length=MOST)


@dataclass(frozen=True)
class Causes:
    """The model's reply about one utterance: ``pairs`` are (target, emotion, cause) from 1 on; None: unreadable."""

    target: int
    reply: str
    pairs: tuple[tuple[int, str, int], ...] | None


@dataclass(frozen=True)
class DialoguePrediction:
    """What the model says about a dialogue: an emotion for each utterance, ``given`` or found, and causes."""

    emotions: list[str]
    answers: list[Answer | None]  # what the model said about the emotion, None where the file gives it
    causes: list[Causes]

    @property
    def pairs(self) -> list[tuple[int, str, int]]:
        """Return all pairs that could be read, each once, in order."""
        return sorted({pair for one in self.causes for pair in one.pairs or ()})

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-like values."""
        told = [
            {"emotion": emotion, **({"asked": answer.as_json()} if answer else {})}
            for emotion, answer in zip(self.emotions, self.answers, strict=True)
        ]
        pairs = [{"target": target, "emotion": emotion, "cause": cause} for target, emotion, cause in self.pairs]
        replies = [{"target": one.target, "reply": one.reply, "read": one.pairs is not None} for one in self.causes]
        return {"utterances": told, "pairs": pairs, "replies": replies}


def read_dialogue(path: Path) -> list[Line]:
    """Read a dialogue file; raise UserError naming the file and the key for one that is not as described above."""
    try:
        tree = json.loads(path.read_text("utf-8-sig"))
    except (OSError, RecursionError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else f"not valid JSON in UTF-8 ({error})"
        raise UserError(str(problem), place=str(path), remedy="give a dialogue's JSON file") from None
    if not isinstance(tree, dict):
        raise UserError("not a JSON object", place=str(path), remedy='write {"utterances": [...]}')
    found = parse(_File, tree, place=str(path)).utterances
    for number, one in enumerate(found, 1):
        if one.emotion is not None and one.emotion not in EMOTIONS:
            problem = f"the emotion {one.emotion!r} is unknown"
            raise UserError(problem, place=f"{path}: utterance {number}", remedy=did_you_mean(one.emotion, EMOTIONS))
    return found


def ask_dialogue(predictor: Predictor, path: Path) -> DialoguePrediction:
    """Ask for the causes of every emotional utterance of a dialogue file.

    Raises UserError when the file is unfit, when an utterance's clip is needed and missing, or cannot be used.
    """
    known = predictor.exported.asking
    how = known["ecpe_semeval"] if "ecpe" not in known and "ecpe_semeval" in known else predictor.exported.asked("ecpe")
    lines = read_dialogue(path)
    clips = _Clips(predictor, path, lines)
    printed = task("ecpe").gold("", corpus=how.corpus, query=how.example)["emotion"] is not None
    answers = [None if one.emotion else _emotion(predictor, one, clips.seen(i)) for i, one in enumerate(lines)]
    emotions = [one.emotion or (told.reply if told else "") for one, told in zip(lines, answers, strict=True)]
    words = [_line(one, i + 1, emotions[i], printed) for i, one in enumerate(lines)]
    causes = []
    for i, emotion in enumerate(emotions):
        if emotion != "neutral":
            question = f"<{how.media}>" + prompt(words, i, emotions=printed)
            (told,) = predictor.ask(clips.seen(i), [(how, question)])
            causes.append(Causes(i + 1, told.reply, parse_pairs(told.reply)))
    return DialoguePrediction(emotions, answers, causes)


class _Clips:
    """Look at each utterance's clip when it is asked for, once."""

    def __init__(self, predictor: Predictor, path: Path, lines: Sequence[Line]) -> None:
        self._predictor, self._path, self._lines = predictor, path, lines
        self._looks: dict[int, Look] = {}

    def seen(self, index: int) -> Look:
        if index not in self._looks:
            clip = self._lines[index].clip
            if clip is None:
                problem = "its clip is needed: the model looks at every utterance that it judges"
                raise UserError(problem, place=f"{self._path}: utterance {index + 1}", remedy='give "clip"')
            try:
                self._looks[index] = look(
                    self._path.parent / clip, self._predictor.exported.media, self._predictor.limits
                )
            except UserError as error:
                place = f"{self._path}: utterance {index + 1}: {error.place}"
                raise UserError(error.problem, place=place, remedy=error.remedy) from None
        return self._looks[index]


def _emotion(predictor: Predictor, one: Line, seen: Look) -> Answer:
    how = predictor.exported.asked("mer")
    (told,) = predictor.ask(seen, [(how, str(how.template).replace(WORDS, spoken(one.text)))])
    return replace(told, reply="joy") if told.reply == "happy" else told  # MOSEI's word for it


def _line(one: Line, position: int, emotion: str, printed: bool) -> str:
    absent = dict.fromkeys(field.name for field in fields(Utterance))
    told = {"position": position, "speaker": one.speaker, "text": one.text, "emotion": emotion}
    return line(Utterance(**{**absent, **told}), emotions=printed)  # type: ignore[arg-type]
