"""Write records as the authors published theirs, byte for byte: JSON indented by four, in their order of keys."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import orjson

from emoverse.amt.corpus_table import CorpusTable
from emoverse.artifacts.manifest import disk_full
from emoverse.corpora import Utterance, get_corpus
from emoverse.corpora.files import json_list
from emoverse.errors import DISK_FULL, RowErrors
from emoverse.tasks import Question, neutralise, task

_RECORD: Final = (
    b'    {\n        "query": %b,\n        "response": %b,\n        "%b": [\n            %b\n        ]\n    }'
)
_ECPE_RECORD: Final = (
    b'    {\n        "%b": [\n            %b\n        ],\n        "query": %b,\n        "response": %b\n    }'
)


def media_path(utterance: Utterance, *, still: bool) -> str:
    """Return the path of an utterance's clip or still image in the authors' files."""
    return get_corpus(utterance.corpus).published_path(utterance, still=still)


def record(task: str, query: str, response: str, media: str, *, still: bool) -> bytes:
    """Return one record's JSON, indented as an element of the list; records of ECPE begin with the video.

    Args:
        task: Name of the task.
        query: The question as the authors write it.
        response: The answer.
        media: Path of the clip or image in the authors' files.
        still: Whether ``media`` is an image.
    """
    kind = b"images" if still else b"videos"
    query_json, response_json, media_json = map(orjson.dumps, (query, response, media))
    if task.startswith("ecpe"):
        return _ECPE_RECORD % (kind, media_json, query_json, response_json)
    return _RECORD % (query_json, response_json, kind, media_json)


class RecordList:
    """Stream records into a JSON file, exactly as ``json.dumps(records, indent=4, ensure_ascii=False)`` writes them."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._started = False

    def add(self, record: bytes) -> None:
        """Write a ``record``."""
        self._handle.write((b",\n" if self._started else b"[\n") + record)
        self._started = True

    def end(self) -> None:
        """Close the list; the authors' files end without a line end."""
        self._handle.write(b"\n]" if self._started else b"[]")


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Write a published file atomically; into a link or a device (``/dev/stdout``), as the records come."""
    if path.is_symlink() or (path.exists() and not path.is_file()):  # renaming would put a file in its place
        with path.open("wb") as handle:
            return _write_all(handle, records)
    temporary = path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as handle:
            _write_all(handle, records)
        temporary.replace(path)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise disk_full(path, temporary) from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_all(handle: IO[bytes], records: Iterable[bytes]) -> None:
    listing = RecordList(handle)
    for written in records:
        listing.add(written)
    listing.end()


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
    """One record of the authors that was matched: its task, its clip, and the question as this package asks it.

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
    records = json_list(path, "records", "give one of the authors' AMT files, or fetch it again")
    problems = [f"{path}:[{i}]: {problem}" for i, record in enumerate(records) if (problem := _problem(record))]
    if problems:
        raise RowErrors(problems, remedy="correct or remove these records")
    return records


def match(
    records: Sequence[Mapping[str, Any]], tables: Sequence[CorpusTable], dropped: Counter[str]
) -> Iterator[Record]:
    """Yield the records whose clip is validated and whose task is known; count the others in ``dropped``."""
    clips = _clips(tables)
    times: Counter[tuple[str, str]] = Counter()
    for record in records:
        query, still = record["query"], bool(record.get("images"))
        path = str((record["images"] if still else record["videos"])[0])
        utterance, dialogue = clips.get(path.rpartition(".")[0], (None, frozenset()))
        name = next((name for name, pattern in _TASKS if pattern.search(query)), None)
        if utterance is None:
            dropped["clip-not-validated"] += 1
        elif name is None:
            dropped["unknown-prompt"] += 1
        else:
            answer = "\n".join(map(neutralise, record["response"].split("\n")))
            gold = task(name).gold(answer, corpus=utterance.corpus, query=query)
            question = Question(text="\n".join(map(_safe_line, query.split("\n"))), answer=answer, gold=gold)
            shown = dialogue if task(name).shows == "dialogue" else frozenset((utterance.utterance_id,))
            times[name, utterance.utterance_id] += 1
            again = times[name, utterance.utterance_id]
            yield Record(name, utterance, question, still, query, shown, f"~{again}" if again > 1 else "")


def _clips(tables: Sequence[CorpusTable]) -> dict[str, tuple[Utterance, frozenset[str]]]:
    """Map the authors' path of every train clip, without its suffix, to its utterance and its dialogue's ids."""
    clips: dict[str, tuple[Utterance, frozenset[str]]] = {}
    for table in tables:
        for dialogue in table.dialogues():
            ids = frozenset(utterance.utterance_id for utterance in dialogue)
            for utterance in dialogue:
                if utterance.split == "train":
                    clips[media_path(utterance, still=False).rpartition(".")[0]] = (utterance, ids)
    return clips


def _safe_line(line: str) -> str:
    """Neutralise the placeholders of a line of a query, but not the tag of its task."""
    tags = _TAG.findall(line)
    if not tags:
        return neutralise(line)
    # The instruction's own tag is the last one; earlier ones are part of the transcript.
    before, tag, after = line.rpartition(tags[-1])
    return f"{neutralise(before)}{tag}{neutralise(after)}"


def _problem(record: Any) -> str:
    if not isinstance(record, dict):
        return "not a record"
    if not isinstance(record.get("query"), str) or not isinstance(record.get("response"), str):
        return "query and response must be strings"
    videos, images = (record.get(key) or [] for key in ("videos", "images"))
    clips = [*videos, *images] if isinstance(videos, list) and isinstance(images, list) else []
    return "" if len(clips) == 1 and isinstance(clips[0], str) else "videos and images must name exactly one clip"
