"""Take a stage's rows from an AMT JSON file of the authors instead of a mixture.

Each record (``query``, ``response``, ``videos`` or ``images``) is matched to a validated clip by its path and to a task
by the words of its query. What cannot be matched is dropped and counted, never guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emoverse.amt.published import media_path
from emoverse.amt.tables import CorpusTable
from emoverse.corpora.base import Utterance
from emoverse.corpora.files import json_list
from emoverse.errors import RowErrors
from emoverse.tasks import task
from emoverse.tasks.base import Question
from emoverse.tasks.text import neutralise

_TASKS: Final = (
    ("msa", re.compile(r"<sentiment>|which sentiment label")),
    ("mer", re.compile(r"<emotion>|which emotion label")),
    ("ecpe", re.compile(r"emotion-cause indices of the target utterance")),
    ("eri", re.compile(r"<reason>|Please tell me the reason|emotional state of the person")),
    ("fer", re.compile(r"facial expressions? used in the image")),
)
_TAG: Final = re.compile(r"<(?:sentiment|emotion|reason)>")


@dataclass(frozen=True)
class Record:
    """One record of the authors that was matched: its task, its clip, and the question as we would ask it.

    ``shown`` are the ids of the utterances it reveals; ``suffix`` tells a second record of one clip and task from the
    first.
    """

    task: str
    utterance: Utterance
    question: Question
    still: bool
    query: str
    shown: frozenset[str]
    suffix: str


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read a published file; raise RowErrors naming each record without query, response and exactly one clip."""
    found = json_list(path, "records", "give one of the authors' AMT files, or fetch it again")
    problems = [f"{path}:[{i}]: {why}" for i, one in enumerate(found) if (why := _fault(one))]
    if problems:
        raise RowErrors(problems, remedy="mend or remove these records")
    return found


def match(
    records: Sequence[Mapping[str, Any]], tables: Sequence[CorpusTable], dropped: Counter[str]
) -> Iterator[Record]:
    """Yield the records whose clip is validated and whose task is known; count the others in ``dropped``."""
    clips = _clips(tables)
    times: Counter[tuple[str, str]] = Counter()
    for one in records:
        still = bool(one.get("images"))
        path = str((one["images"] if still else one["videos"])[0])
        utterance, dialogue = clips.get(path.rpartition(".")[0], (None, frozenset()))
        name = next((name for name, words in _TASKS if words.search(one["query"])), None)
        if utterance is None:
            dropped["clip-not-validated"] += 1
        elif name is None:
            dropped["unknown-prompt"] += 1
        else:
            answer = "\n".join(map(neutralise, one["response"].split("\n")))
            gold = task(name).gold(answer, corpus=utterance.corpus, query=one["query"])
            question = Question(text=_safe(one["query"]), answer=answer, gold=gold)
            shown = dialogue if task(name).shows == "dialogue" else frozenset((utterance.utterance_id,))
            times[name, utterance.utterance_id] += 1
            again = times[name, utterance.utterance_id]
            yield Record(name, utterance, question, still, one["query"], shown, f"~{again}" if again > 1 else "")


def _clips(tables: Sequence[CorpusTable]) -> dict[str, tuple[Utterance, frozenset[str]]]:
    """Map the authors' path of every train clip, its suffix aside, to its utterance and its dialogue's ids."""
    found: dict[str, tuple[Utterance, frozenset[str]]] = {}
    for table in tables:
        for dialogue, _ in table.dialogues():
            ids = frozenset(one.utterance_id for one in dialogue)
            for one in dialogue:
                if one.split == "train":
                    found[media_path(one, still=False).rpartition(".")[0]] = (one, ids)
    return found


def _safe(query: str) -> str:
    """Defuse a query's placeholders, its line breaks and the tag of its task aside."""
    return "\n".join(_safe_line(line) for line in query.split("\n"))


def _safe_line(line: str) -> str:
    tags = _TAG.findall(line)
    if not tags:
        return neutralise(line)
    # The instruction's own tag is the last one; earlier ones are somebody's words.
    before, tag, after = line.rpartition(tags[-1])
    return f"{neutralise(before)}{tag}{neutralise(after)}"


def _fault(one: Any) -> str:
    if not isinstance(one, dict):
        return "not a record"
    if not isinstance(one.get("query"), str) or not isinstance(one.get("response"), str):
        return "query and response must be words"
    videos, images = (one.get(key) or [] for key in ("videos", "images"))
    clips = [*videos, *images] if isinstance(videos, list) and isinstance(images, list) else []
    return "" if len(clips) == 1 and isinstance(clips[0], str) else "videos and images must name exactly one clip"
