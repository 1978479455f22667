"""Write records as the authors published theirs, byte for byte: JSON indented by four, in their order of keys."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import IO

import orjson

from emoverse.corpora.base import Utterance


def quoted(text: str) -> str:
    """Return a text as a JSON string, as ``json.dumps(text, ensure_ascii=False)`` writes it."""
    return orjson.dumps(text).decode()


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


def record(task: str, query: str, response: str, media: str, *, still: bool) -> str:
    """Return one record's JSON, indented as an element of the list."""
    return records(task, [(quoted(query), quoted(response))], [quoted(media)], still=still)[0]


def records(task: str, words: Iterable[tuple[str, str]], clips: Iterable[str], *, still: bool) -> list[str]:
    """Return records of one task from (query, response) and clip, each a JSON string; ECPE's begin with the video."""
    kind = "images" if still else "videos"
    if task.startswith("ecpe"):
        return [
            f'    {{\n        "{kind}": [\n            {clip}\n        ],\n'
            f'        "query": {query},\n        "response": {response}\n    }}'
            for (query, response), clip in zip(words, clips, strict=True)
        ]
    return [
        f'    {{\n        "query": {query},\n        "response": {response},\n'
        f'        "{kind}": [\n            {clip}\n        ]\n    }}'
        for (query, response), clip in zip(words, clips, strict=True)
    ]


class RecordList:
    """Stream records into a JSON file, exactly as ``json.dumps(records, indent=4, ensure_ascii=False)`` writes them."""

    def __init__(self, handle: IO[str]) -> None:
        self._handle = handle
        self._count = 0

    def add(self, *records: str) -> None:
        """Write some ``record``s."""
        if records:
            self._handle.write(("[\n" if self._count == 0 else ",\n") + ",\n".join(records))
            self._count += len(records)

    def end(self) -> None:
        """Close the list; the authors' files end without a line end."""
        self._handle.write("\n]" if self._count else "[]")


def write_records(path: Path, records: Iterable[str]) -> None:
    """Write a whole published file, at once or not at all; into a link or a device (``/dev/stdout``), as it comes."""
    if path.is_symlink() or (path.exists() and not path.is_file()):  # renaming would put a file in its place
        with path.open("w", encoding="utf-8", newline="\n") as handle:
            return _write_all(handle, records)
    temporary = path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as handle:
            _write_all(handle, records)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_all(handle: IO[str], records: Iterable[str]) -> None:
    listing = RecordList(handle)
    for one in records:
        listing.add(one)
    listing.end()
