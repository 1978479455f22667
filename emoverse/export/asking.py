"""Write down how a model was asked, so that whoever has the exported folder alone can ask alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from emoverse.errors import UserError
from emoverse.inference.testsets import Row
from emoverse.manifest import Source
from emoverse.tasks import tasks
from emoverse.tasks.text import mute

WORDS: Final = "{words}"
MAX_NEW_TOKENS: Final = 64  # where no evaluation says how long a reply may be


def prompts(rows: Sequence[Row], answers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return, by corpus and task, the allowed answers, one row's messages, and their pattern.

    ``template`` is the question with ``{words}`` for the person's; null where words are not all that changes, as in a
    conversation. ``media`` is video (the clip's uniform frames) or image (its one still).
    """
    found: dict[str, Any] = {}
    for row in rows:
        name = f"{row.get('corpus', 'any')}-{row.get('task', 'any')}"
        asked = [message for message in row["messages"] if message["role"] != "assistant"]
        entry = {
            "answers": list(answers.get(str(row["channel"]), ())),
            "corpus": str(row.get("corpus", "any")),
            "media": "video" if row.get("videos") else "image",
            "messages": asked,
            "task": str(row.get("task", "any")),
            "template": _template(str(asked[-1]["content"]), str(row.get("task", "any"))),
        }
        found.setdefault(name, entry)
    return found


def _template(question: str, task: str) -> str | None:
    known = tasks().get(task)
    alone = known is not None and known.shows == "utterance"  # a question that quotes nobody is always the same
    return mute(question, WORDS) or (question if alone else None)


def frames_made(sources: Iterable[Source]) -> dict[str, Any] | None:
    """Return the parameters that made the frames (``media`` of params.yaml), None where no input tells.

    Raises UserError when two outputs of validate were made differently: no caller could make both.
    """
    told = [source.manifest["params"].get("media") for source in sources]
    if any(one != told[0] for one in told):
        problem = "they were made with different parameters of media"
        raise UserError(problem, place="--validated", remedy="validate every corpus again with the same params.yaml")
    return told[0] if told else None


def generation(scores: Source | None) -> dict[str, int]:
    """Return how replies are generated: greedily, and as long as they were when the model was scored."""
    told = scores.manifest["params"].get("max_new_tokens") if scores else None
    return {"max_new_tokens": int(told or MAX_NEW_TOKENS)}
