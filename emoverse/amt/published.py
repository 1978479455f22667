"""Write records as the authors published theirs, byte for byte: JSON indented by four, in their order of keys."""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final

import orjson

from emoverse.amt.columns import CorpusTable
from emoverse.artifacts.manifest import disk_full
from emoverse.corpora.base import Utterance
from emoverse.corpora.files import json_list
from emoverse.errors import RowErrors
from emoverse.tasks import task
from emoverse.tasks.base import Question, neutralise

_RECORD: Final = (
    b'    {\n        "query": "%b",\n        "response": "%b",\n        "%b": [\n            "%b"\n        ]\n    }'
)
_ECPE_RECORD: Final = (
    b'    {\n        "%b": [\n            "%b"\n        ],\n        "query": "%b",\n        "response": "%b"\n    }'
)


def escaped(texts: Sequence[str]) -> list[bytes]:
    """Return texts as they stand between the quotation marks of a JSON string, in UTF-8.

    As ``json.dumps(text, ensure_ascii=False)`` writes them. A whole column goes through orjson at once, one string to
    a line: a line break inside a string is escaped, so lines end between strings only.
    """
    return orjson.dumps(texts, option=orjson.OPT_INDENT_2)[5:-3].split(b'",\n  "') if texts else []


def media_path(one: Utterance, *, still: bool) -> str:
    """Return the clip's path as the authors write it; for a still image of MOSEI ``{video}/{clip}.png``.

    MELD drops the split's outer folder; ECF's folder is named for the subtask. Other corpora keep their own path.
    """
    folder, _, name = one.clip.rpartition("/")
    path = f"{_folder(one.corpus, one.split, folder)}{name}"
    return path.rpartition(".")[0] + ".png" if still else path


@lru_cache(maxsize=1 << 14)
def _folder(corpus: str, split: str, folder: str) -> str:
    if corpus == "meld":
        return f"MELD/{folder.rpartition('/')[2]}/"
    if corpus == "ecf":
        return f"ECF2/subtask2_{split}/"
    return f"{folder}/".removeprefix("Raw/") if corpus == "mosei" else f"{corpus}/{folder}/"


def record(task: str, query: str, response: str, media: str, *, still: bool) -> bytes:
    """Return one record's JSON, indented as an element of the list."""
    return records(task, *([one] for one in escaped([query, response, media])), still=still)[0]


def records(
    task: str, queries: Iterable[bytes], responses: Iterable[bytes], clips: Iterable[bytes], *, still: bool
) -> list[bytes]:
    """Return records of one task from columns of ``escaped`` texts; ECPE's begin with the video."""
    kind = b"images" if still else b"videos"
    columns = zip(queries, responses, clips, strict=True)
    if task.startswith("ecpe"):
        return [_ECPE_RECORD % (kind, clip, query, response) for query, response, clip in columns]
    return [_RECORD % (query, response, kind, clip) for query, response, clip in columns]


class RecordList:
    """Stream records into a JSON file, exactly as ``json.dumps(records, indent=4, ensure_ascii=False)`` writes them."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._count = 0

    def add(self, records: Sequence[bytes]) -> None:
        """Write some ``record``s."""
        if records:
            self._handle.write(b"[\n" if self._count == 0 else b",\n")
            self._handle.write(b",\n".join(records))
            self._count += len(records)

    def end(self) -> None:
        """Close the list; the authors' files end without a line end."""
        self._handle.write(b"\n]" if self._count else b"[]")


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Write a whole published file, at once or not at all; into a link or a device (``/dev/stdout``), as it comes."""
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
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full(path, temporary) from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_all(handle: IO[bytes], records: Iterable[bytes]) -> None:
    listing = RecordList(handle)
    for one in records:
        listing.add([one])
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
