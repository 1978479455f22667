"""Write the rows of AMT in ms-swift's format and as the authors published theirs, and read the authors' own.

The authors' form is met byte for byte: JSON indented by four, in their order of keys.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import orjson

from emoverse.amt.corpus_table import CorpusTable
from emoverse.artifacts.manifest import disk_full
from emoverse.corpora import Utterance, get_corpus
from emoverse.corpora.files import json_list
from emoverse.errors import DISK_FULL, RowErrors
from emoverse.tasks import Question, neutralise, task

BLANK, MUTE = "~blank", "~mute"
"""Suffixes of the copies that modality drop-out adds; they are not published."""
_PUBLISHED: Final = (
    b'    {\n        "query": %b,\n        "response": %b,\n        "%b": [\n            %b\n        ]\n    }'
)
_ECPE_RECORD: Final = (
    b'    {\n        "%b": [\n            %b\n        ],\n        "query": %b,\n        "response": %b\n    }'
)
_LISTED: Final = 50  # different answers in a report
_KEPT: Final = 100_000  # different answers that are counted
_TASKS: Final = (
    ("msa", re.compile(r"<sentiment>|which sentiment label")),
    ("mer", re.compile(r"<emotion>|which emotion label")),
    ("ecpe", re.compile(r"emotion-cause indices of the target utterance")),
    ("eri", re.compile(r"<reason>|Please tell me the reason|emotional state of the person")),
    ("fer", re.compile(r"facial expressions? used in the image")),
)
_TAG: Final = re.compile(r"<(?:sentiment|emotion|reason)>")


@dataclass
class Row:
    """One row of the dataset.

    Attributes:
        still: Whether it shows the clip's peak frame instead of the clip.
        query: The verbatim prompt, where it differs from the neutralised one.
        suffix: Tells rows of one task and clip apart.
        group: The dialogue, for rows with gold: records of one dialogue are not independent.
    """

    task: str
    utterance: Utterance
    question: Question
    still: bool
    query: str = ""
    suffix: str = ""
    group: str = ""

    @property
    def is_copy(self) -> bool:
        """Return whether this is an altered copy of another row."""
        return self.suffix in (BLANK, MUTE)

    @property
    def reference(self) -> str:
        """Return the reference to the row's frames."""
        blank = "#blank" if self.suffix == BLANK else ""
        return f"clip:{self.utterance.utterance_id}{'#peak' if self.still else ''}{blank}"

    def published(self) -> bytes:
        """Return the record in the authors' form, with the transcript verbatim."""
        query, path = self.query or self.question.text, media_path(self.utterance, still=self.still)
        return published_record(self.task, query, self.question.answer, path, still=self.still)

    def line(self, system: str) -> bytes:
        """Return the row in ms-swift's format as a line of JSON; the keys after ``channel`` are ours."""
        question, utterance_id = self.question, self.utterance.utterance_id
        messages = [{"role": "system", "content": system}] if system else []
        messages += [
            {"role": "user", "content": ("<image>" if self.still else "<video>") + question.text},
            {"role": "assistant", "content": question.answer},
        ]
        row = {
            "messages": messages,
            "videos": [] if self.still else [self.reference],
            "images": [self.reference] if self.still else [],
            "channel": f"{self.task}/{utterance_id}{self.suffix}",
            "task": self.task,
            "corpus": self.utterance.corpus,
            "utterance_id": utterance_id,
            **question.extra,
        }
        if self.group:
            row["gold"] = {**question.gold, "group": self.group}
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


class Outputs:
    """The open files of the dataset: each is opened with its first row, and all are closed at the end."""

    def __init__(self, root: Path, system: str) -> None:
        self._root, self._system = root, system
        self._stack = ExitStack()
        self._files: dict[str, IO[bytes]] = {}
        self._published: dict[str, RecordList] = {}
        self.counts: dict[str, FileCounts] = {}

    def __enter__(self) -> Outputs:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._stack.close()

    def write(self, name: str, row: Row) -> None:
        """Write a row to ``<name>.jsonl`` and, unless it is a copy, to ``published/<name>.json``."""
        if name not in self._files:
            self._files[name] = self._open(f"{name}.jsonl")
            self.counts[name] = FileCounts()
        self._files[name].write(row.line(self._system))
        self.counts[name].add(row)
        if row.is_copy:
            return
        if name not in self._published:
            self._published[name] = RecordList(self._open(f"published/{name}.json"))
            self._stack.callback(self._published[name].end)
        self._published[name].add(row.published())

    def _open(self, name: str) -> IO[bytes]:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return self._stack.enter_context(path.open("wb", buffering=1 << 20))


class FileCounts:
    """Count the rows of one file in bounded memory: 24 bytes a row, and at most ``_KEPT`` different answers."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.empty = 0
        self.outside = 0
        self.placeholders = 0
        # Python's own hashes: 64 bits, and only equal ones are counted, so the counts do not depend on the hash seed.
        self._texts = array("q")
        self._clips = array("q")
        self._answers = array("q")

    def add(self, row: Row) -> None:
        """Count a row."""
        answer, text, allowed = row.question.answer, row.question.text, row.question.gold["answers"]
        if answer in self.answers or len(self.answers) < _KEPT:
            self.answers[answer] += 1
        self.empty += not answer.strip()
        self.outside += allowed is not None and answer not in allowed
        self.placeholders += row.query != ""
        self._texts.append(hash(text))
        self._clips.append(hash((text, row.reference)))
        self._answers.append(hash(answer))

    def report(self) -> dict[str, Any]:
        """Return the counts; contradictions are groups of equal prompts (and clips) with more than one answer."""
        common = sorted(self.answers.items(), key=lambda item: (-item[1], item[0]))
        return {
            "rows": len(self._texts),
            "answers": dict(common[:_LISTED]),
            "different_answers": len(self.answers),
            "empty_answers": self.empty,
            "answers_outside_set": self.outside,
            "prompts_with_placeholders": self.placeholders,
            "same_words_other_answer": _contradictions(self._texts, self._answers),
            "same_words_and_clip_other_answer": _contradictions(self._clips, self._answers),
        }


def _contradictions(keys: array[int], answers: array[int]) -> int:
    """Count the keys that occur with more than one answer."""
    pairs = np.unique(np.column_stack([np.frombuffer(column, np.int64) for column in (keys, answers)]), axis=0)
    _, counts = np.unique(pairs[:, 0], return_counts=True)
    return int((counts > 1).sum())


def media_path(utterance: Utterance, *, still: bool) -> str:
    """Return the path of an utterance's clip or still image in the authors' files."""
    return get_corpus(utterance.corpus).published_path(utterance, still=still)


def published_record(task: str, query: str, response: str, media: str, *, still: bool) -> bytes:
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
    return _PUBLISHED % (query_json, response_json, kind, media_json)


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
