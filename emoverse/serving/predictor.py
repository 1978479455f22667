"""Answer questions about a clip or a dialogue: sentiment and emotion with probabilities, expression, reason, causes."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from emoverse.artifacts.manifest import open_source
from emoverse.config import MediaParams, parse
from emoverse.corpora import EMOTIONS, Utterance
from emoverse.errors import UserError, did_you_mean
from emoverse.evaluation.scoring import posterior
from emoverse.export.parity import PLACEHOLDER
from emoverse.inference.engine import Device, Engine
from emoverse.inference.onnx_engine import SETTINGS, onnx_engine
from emoverse.prompt import Row
from emoverse.serving.clips import ClipFrames, Limits, read_clip, start_forkserver
from emoverse.tasks import MUTED, ecpe, neutralise, task
from emoverse.tasks.replies import word_of

MAX_CHARACTERS: Final = 4000  # of a transcript
BATCH_SIZE: Final = 8  # questions answered at once
PROMPTS: Final = "prompts.json"
_CORPORA: Final = ("meld", "ecf", "mosei")  # whose prompts are preferred: clips before stills
_EXPORT_AGAIN: Final = "export the model again, with --amt and --validated"
MAX_UTTERANCES: Final = 64
_frozen = checked(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))


@dataclass(frozen=True)
class Answer:
    """The model's answer to one task.

    ``reply`` is a label (``joy``) or generated text; ``probabilities`` maps every label to its probability, in the
    prompt's order, and is empty where the reply was generated.
    """

    task: str
    title: str
    question: str
    reply: str
    probabilities: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the answer as JSON-like values."""
        result: dict[str, Any] = {"title": self.title, "reply": self.reply}
        if self.probabilities:
            result["probabilities"] = {name: round(share, 4) for name, share in self.probabilities.items()}
        return result


@dataclass(frozen=True)
class Prediction:
    """The answers about a clip by task, and its RGB frames (n, height, width, 3) and still."""

    clip: str
    seconds: float | None  # None where the file has no times
    frames: NDArray[np.uint8]
    still: NDArray[np.uint8]
    answers: dict[str, Answer]

    def as_json(self) -> dict[str, Any]:
        """Return all but the pictures as JSON-like values."""
        answers = {name: answer.as_json() for name, answer in self.answers.items()}
        return {
            "clip": self.clip,
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "frames": len(self.frames),
            "answers": answers,
        }


@dataclass(frozen=True, kw_only=True)
class TaskPrompt:
    """How one task is asked: system message, question template, and the allowed answers, () for an open task.

    ``template`` has PLACEHOLDER for the transcript, None for a task about a whole dialogue. ``media`` is ``video`` or
    ``image``. ``example`` is a question of the test set.
    """

    task: str
    corpus: str
    answers: tuple[str, ...]
    media: str
    template: str | None
    system: str | None
    example: str

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> TaskPrompt:
        """Read an entry of prompts.json."""
        *before, question = entry["messages"]
        return cls(
            task=entry["task"],
            corpus=entry["corpus"],
            answers=tuple(entry["answers"]),
            media=entry["media"],
            template=entry["template"],
            system=str(before[0]["content"]) if before else None,
            example=str(question["content"]),
        )

    def question(self, transcript: str) -> str:
        """Return the question about a clip with this transcript."""
        return str(self.template).replace(PLACEHOLDER, transcript)

    def row(self, question: str, reference: str) -> Row:
        """Return the row that asks the question about the clip of a frame reference."""
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return {
            "messages": [*before, {"role": "user", "content": question}],
            "videos": [reference] if self.media == "video" else [],
            "images": [f"{reference}#peak"] if self.media == "image" else [],
            "channel": f"{self.task} of {reference}",
        }


@dataclass(frozen=True)
class ExportedModel:
    """An exported folder: how its frames are made, how each task is asked, how long a reply may be."""

    folder: Path
    media: MediaParams
    prompts: dict[str, TaskPrompt]
    max_new_tokens: int

    def prompt(self, task: str) -> TaskPrompt:
        """Return how a task is asked; raise UserError when the model was not evaluated on it."""
        if task not in self.prompts:
            remedy = did_you_mean(task, self.prompts)
            raise UserError(f"this model has no prompt of task {task!r}", place="--task", remedy=remedy)
        return self.prompts[task]


def read_export(folder: Path) -> ExportedModel:
    """Read an exported folder, checking every byte against its manifest.

    Raises:
        UserError: The folder is missing, unfinished, changed, not an export, or was exported without a dataset.
    """
    open_source(folder, made_by="export")
    try:
        settings = json.loads((folder / SETTINGS).read_text("utf-8"))
        entries = json.loads((folder / PROMPTS).read_text("utf-8"))
        media, limit = settings["media"], int(settings["generation"]["max_new_tokens"])
        prompts = [TaskPrompt.from_json(entry) for entry in entries.values()]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        problem = f"not an export of this version ({type(error).__name__}: {error})"
        raise UserError(problem, place=str(folder), remedy=_EXPORT_AGAIN) from error
    if media is None:
        problem = "exported without a dataset, so its prompts are unknown"
        raise UserError(problem, place=str(folder), remedy=_EXPORT_AGAIN)
    preferred: dict[str, TaskPrompt] = {}
    for prompt in sorted(prompts, key=_preference):
        preferred.setdefault(prompt.task, prompt)
    return ExportedModel(folder, parse(MediaParams, media, place=str(folder / SETTINGS)), preferred, limit)


def _preference(prompt: TaskPrompt) -> tuple[bool, int, str]:
    index = _CORPORA.index(prompt.corpus) if prompt.corpus in _CORPORA else len(_CORPORA)
    return prompt.media != "video", index, prompt.corpus


class ClipStore(dict[str, NDArray[np.uint8]]):
    """The frames of the clips in use, by reference."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def add(self, clip: ClipFrames) -> str:
        """Add a clip; return its reference, which is never used again."""
        self._count += 1
        name = f"clip:{self._count}"
        self[name], self[f"{name}#peak"] = clip.frames, clip.still[None]
        return name

    def remove(self, reference: str) -> None:
        """Drop a clip's frames."""
        del self[reference], self[f"{reference}#peak"]


class Predictor:
    """Answer questions with an exported model; threads take turns.

    Args:
        exported: The export's settings and prompts.
        engine: Runs the model.
        clips: The frames that the engine reads.
        limits: Limits of a clip.
    """

    def __init__(self, exported: ExportedModel, engine: Engine, clips: ClipStore, limits: Limits) -> None:
        self.exported, self.engine, self.clips, self.limits = exported, engine, clips, limits
        self._lock = threading.Lock()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks about one clip, sorted by name."""
        return tuple(sorted(name for name, prompt in self.exported.prompts.items() if prompt.template is not None))

    def predict_clip(self, path: Path, text: str = "", tasks: Sequence[str] = ()) -> Prediction:
        """Answer questions about a clip and its transcript ``text``, on ``tasks`` or on all tasks about one clip.

        Raises:
            UserError: The clip cannot be used, the transcript is too long, or a task is unknown.
        """
        prompts = [self._clip_prompt(name) for name in tasks or self.tasks]
        transcript = clean_transcript(text)
        clip = read_clip(path, self.exported.media, self.limits)
        answers = self.answer(clip, [(prompt, prompt.question(transcript)) for prompt in prompts])
        return Prediction(path.name, clip.seconds, clip.frames, clip.still, {item.task: item for item in answers})

    def _clip_prompt(self, name: str) -> TaskPrompt:
        prompt = self.exported.prompt(name)
        if prompt.template is None:
            problem = f"task {name!r} is about a whole dialogue, not about one clip"
            raise UserError(problem, place="--task", remedy="give a dialogue's JSON file instead of a clip")
        return prompt

    def answer(self, clip: ClipFrames, questions: Sequence[tuple[TaskPrompt, str]]) -> list[Answer]:
        """Answer questions about one clip; those with the same allowed answers run as one batch."""
        with self._lock:
            reference = self.clips.add(clip)
            try:
                return self._answer(questions, reference)
            finally:
                self.clips.remove(reference)

    def _answer(self, questions: Sequence[tuple[TaskPrompt, str]], reference: str) -> list[Answer]:
        groups: dict[tuple[str, ...], list[int]] = {}
        for index, (prompt, _) in enumerate(questions):
            groups.setdefault(prompt.answers, []).append(index)
        results: dict[int, Answer] = {}
        for answers, indices in groups.items():
            rows = [questions[i][0].row(questions[i][1], reference) for i in indices]
            replies = self._closed(rows, answers) if answers else self._open(rows)
            for i, (reply, probabilities) in zip(indices, replies, strict=True):
                prompt, question = questions[i]
                results[i] = Answer(prompt.task, task(prompt.task).title, question, reply, probabilities)
        return [results[i] for i in range(len(questions))]

    def _closed(self, rows: Sequence[Row], answers: tuple[str, ...]) -> list[tuple[str, dict[str, float]]]:
        sums, chosen = self.engine.score_answers(rows, answers)
        names = [word_of(answer) for answer in answers]
        return [
            (names[index], dict(zip(names, (float(share) for share in shares), strict=True)))
            for index, shares in zip(chosen, posterior(sums), strict=True)
        ]

    def _open(self, rows: Sequence[Row]) -> list[tuple[str, dict[str, float]]]:
        return [(reply, {}) for reply in self.engine.generate(rows, self.exported.max_new_tokens)]


def clean_transcript(text: str) -> str:
    """Return a transcript as it is put into a prompt, unable to add media or roles; ``...`` where it is empty.

    Raises:
        UserError: It is longer than MAX_CHARACTERS, or was not UTF-8 on the command line.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError("not UTF-8", place="the transcript", remedy="use a terminal or a file of that encoding")
    if len(text) > MAX_CHARACTERS:
        problem = f"{len(text):,} characters, the limit is {MAX_CHARACTERS:,}"
        raise UserError(problem, place="the transcript", remedy="give only what is said in this clip")
    return neutralise(text.strip()) or MUTED


def load_predictor(
    folder: Path, limits: Limits | None = None, precision: str | None = None, device: Device = "auto"
) -> Predictor:
    """Open the folder of an export.

    Args:
        folder: Output of export.
        limits: Limits of a clip; None for the defaults.
        precision: One of the export's; None takes its first.
        device: ``auto`` takes CUDA where available.

    Raises:
        UserError: The folder is missing, unfinished or changed, a graph cannot be opened, or the device is not there.
    """
    start_forkserver()  # the decoder's process imports its libraries while this one opens the graphs
    clips = ClipStore()
    exported = read_export(folder)
    engine = onnx_engine(folder, clips, batch_size=BATCH_SIZE, precision=precision, device=device)
    return Predictor(exported, engine, clips, limits or Limits())


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
            question = f"<{template.media}>" + ecpe.prompt(texts, i, emotions=printed)
            (answer,) = predictor.answer(clips.frames(i), [(template, question)])
            causes.append(Causes(i + 1, answer.reply, ecpe.parse_pairs(answer.reply)))
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
    return ecpe.line(Utterance(**{**unset, **values}), emotions=printed)  # type: ignore[arg-type]
