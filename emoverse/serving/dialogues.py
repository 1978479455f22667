"""Read a dialogue from a JSON file and answer what caused every emotion in it.

The file is ``{"utterances": [{"speaker": "Ada", "text": "...", "clip": "a.mp4", "emotion": "joy"}, ...]}``. A clip's
path is relative to the file. An emotion that is not stated is predicted first, as the question about causes may print
every utterance's emotion (as the authors' does).
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
from emoverse.corpora import EMOTIONS, Utterance
from emoverse.errors import UserError, did_you_mean
from emoverse.serving.clips import ClipFrames, read_clip
from emoverse.serving.predictor import MAX_CHARACTERS, Answer, Predictor, clean_transcript
from emoverse.tasks import task
from emoverse.tasks.ecpe import line, parse_pairs, prompt

MAX_UTTERANCES: Final = 64
_frozen = checked(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))


@_frozen
class DialogueLine:
    """One utterance of a dialogue file."""

    text: str = Field(max_length=MAX_CHARACTERS)
    speaker: str = Field(default="Speaker", max_length=100)
    clip: str | None = None
    emotion: str | None = None


@_frozen
class _File:
    utterances: list[DialogueLine] = Field(min_length=1, max_length=MAX_UTTERANCES)


@dataclass(frozen=True)
class Causes:
    """The model's reply about one utterance: ``pairs`` are (target, emotion, cause) from 1 on; None: unreadable."""

    target: int
    reply: str
    pairs: tuple[tuple[int, str, int], ...] | None


@dataclass(frozen=True)
class DialoguePrediction:
    """An emotion for each utterance, stated in the file or predicted, and the causes."""

    emotions: list[str]
    answers: list[Answer | None]  # the predicted emotion, None where the file states it
    causes: list[Causes]

    @property
    def pairs(self) -> list[tuple[int, str, int]]:
        """Return all readable pairs, each once, in order."""
        return sorted({pair for causes in self.causes for pair in causes.pairs or ()})

    def as_json(self) -> dict[str, Any]:
        """Return the prediction as JSON-like values."""
        utterances = [
            {"emotion": emotion, **({"asked": answer.as_json()} if answer else {})}
            for emotion, answer in zip(self.emotions, self.answers, strict=True)
        ]
        pairs = [{"target": target, "emotion": emotion, "cause": cause} for target, emotion, cause in self.pairs]
        replies = [{"target": item.target, "reply": item.reply, "read": item.pairs is not None} for item in self.causes]
        return {"utterances": utterances, "pairs": pairs, "replies": replies}


def read_dialogue(path: Path) -> list[DialogueLine]:
    """Read a dialogue file.

    Raises:
        UserError: The file is missing, not JSON, or has an unknown key, a wrong value or an unknown emotion.
    """
    try:
        tree = json.loads(path.read_text("utf-8-sig"))
    except (OSError, RecursionError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else f"not valid JSON in UTF-8 ({error})"
        raise UserError(str(problem), place=str(path), remedy="give a dialogue's JSON file") from None
    if not isinstance(tree, dict):
        raise UserError("not a JSON object", place=str(path), remedy='write {"utterances": [...]}')
    lines = parse(_File, tree, place=str(path)).utterances
    for number, item in enumerate(lines, 1):
        if item.emotion is not None and item.emotion not in EMOTIONS:
            remedy = f"expected one of {', '.join(EMOTIONS)}; {did_you_mean(item.emotion, EMOTIONS)}"
            raise UserError(f"unknown emotion {item.emotion!r}", place=f"{path}: utterance {number}", remedy=remedy)
    return lines


def predict_dialogue(predictor: Predictor, path: Path) -> DialoguePrediction:
    """Answer what caused every emotional utterance of a dialogue file.

    Raises:
        UserError: The file is unfit, or the clip of an utterance is needed and missing or cannot be used.
    """
    prompts = predictor.exported.prompts
    name = "ecpe_semeval" if "ecpe" not in prompts and "ecpe_semeval" in prompts else "ecpe"
    template = predictor.exported.prompt(name)
    lines = read_dialogue(path)
    clips = _Clips(predictor, path, lines)
    printed = task("ecpe").gold("", corpus=template.corpus, query=template.example)["emotion"] is not None
    answers = [
        None if item.emotion else _predict_emotion(predictor, item, clips.frames(i)) for i, item in enumerate(lines)
    ]
    emotions = [item.emotion or (answer.reply if answer else "") for item, answer in zip(lines, answers, strict=True)]
    texts = [_line(item, i + 1, emotions[i], printed) for i, item in enumerate(lines)]
    causes = []
    for i, emotion in enumerate(emotions):
        if emotion != "neutral":
            question = f"<{template.media}>" + prompt(texts, i, emotions=printed)
            (answer,) = predictor.answer(clips.frames(i), [(template, question)])
            causes.append(Causes(i + 1, answer.reply, parse_pairs(answer.reply)))
    return DialoguePrediction(emotions, answers, causes)


class _Clips:
    """Decode each utterance's clip when it is needed, once."""

    def __init__(self, predictor: Predictor, path: Path, lines: Sequence[DialogueLine]) -> None:
        self._predictor, self._path, self._lines = predictor, path, lines
        self._frames: dict[int, ClipFrames] = {}

    def frames(self, index: int) -> ClipFrames:
        if index not in self._frames:
            place, clip = f"{self._path}: utterance {index + 1}", self._lines[index].clip
            if clip is None:
                problem = "its clip is needed: the model sees every utterance that it judges"
                raise UserError(problem, place=place, remedy='give "clip"')
            exported, limits = self._predictor.exported, self._predictor.limits
            try:
                self._frames[index] = read_clip(self._path.parent / clip, exported.media, limits)
            except UserError as error:
                raise UserError(error.problem, place=f"{place}: {error.place}", remedy=error.remedy) from None
        return self._frames[index]


def _predict_emotion(predictor: Predictor, item: DialogueLine, frames: ClipFrames) -> Answer:
    template = predictor.exported.prompt("mer")
    (answer,) = predictor.answer(frames, [(template, template.question(clean_transcript(item.text)))])
    return replace(answer, reply="joy") if answer.reply == "happy" else answer  # MOSEI's label of it


def _line(item: DialogueLine, position: int, emotion: str, printed: bool) -> str:
    unset = dict.fromkeys(field.name for field in fields(Utterance))
    values = {"position": position, "speaker": item.speaker, "text": item.text, "emotion": emotion}
    return line(Utterance(**{**unset, **values}), emotions=printed)  # type: ignore[arg-type]
