"""Turn what a visitor gives into what the page shows: answers, or one clear message. Knows nothing of gradio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emoverse.errors import UserError
from emoverse.predict.predictor import Answer, Predictor, spoken
from emoverse.tasks import task

NO_CLIP: Final = "Drop a video file above, or record one, and ask again."
NO_TASK: Final = "Choose at least one question."


@dataclass(frozen=True)
class Shown:
    """What the page shows: ``message`` is plain text, empty when there is nothing to say; ``answers`` by task."""

    message: str
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)


def choices(predictor: Predictor) -> list[tuple[str, str]]:
    """Return (title, task) of each question that the model can be asked about a clip."""
    return [(task(name).title, name) for name in predictor.tasks]


def reply(predictor: Predictor, clip: str | None, words: str, tasks: Sequence[str]) -> Shown:
    """Ask about a clip; whatever is wrong with it comes back as a message that names no path of this machine."""
    if clip is None:
        return Shown(NO_CLIP)
    if not tasks:
        return Shown(NO_TASK)
    path = Path(clip)
    try:
        found = predictor.clip(path, words, tasks)
        heard = spoken(words)
    except UserError as error:
        place = path.name if error.place == str(path) else error.place
        return Shown(f"{place}: {error.problem}. {error.remedy.capitalize()}." if place else f"{error}.")
    # The same as the model's prompt has it, for a visitor who wonders about a space that she did not type.
    changed = words.strip() and heard != words.strip()
    note = f"Some of your words would have been commands to the model. It read: {heard}" if changed else ""
    return Shown(note, list(found.frames), dict(found.answers))
