"""Write records as the authors published theirs, byte for byte: JSON indented by four, in their order of keys."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Final

import orjson

from emoverse.corpora.base import Utterance
from emoverse.manifest import disk_full

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
