"""Write records as the authors published theirs, byte for byte: JSON indented by four, in their order of keys."""

from __future__ import annotations

from collections.abc import Iterable
from json.encoder import encode_basestring as _quoted  # what json.dumps(..., ensure_ascii=False) uses for strings
from pathlib import Path
from typing import IO

from emoverse.corpora.base import Utterance


def media_path(one: Utterance, *, still: bool) -> str:
    """Return the clip's path as the authors write it; for a still image of MOSEI ``{video}/{clip}.png``.

    MELD drops the split's outer folder; ECF's folder is named for the subtask. Other corpora keep their own path.
    """
    folder, _, name = one.clip.rpartition("/")
    if one.corpus == "meld":
        path = f"MELD/{folder.rpartition('/')[2]}/{name}"
    elif one.corpus == "ecf":
        path = f"ECF2/subtask2_{one.split}/{name}"
    elif one.corpus == "mosei":
        path = one.clip.removeprefix("Raw/")
    else:
        path = f"{one.corpus}/{one.clip}"
    return path.rpartition(".")[0] + ".png" if still else path


def record(task: str, query: str, response: str, media: str, *, still: bool) -> str:
    """Return one record's JSON, indented as an element of the list; the keys of ECPE begin with the video."""
    parts = [f'        "query": {_quoted(query)}', f'        "response": {_quoted(response)}']
    clip = f'        "{"images" if still else "videos"}": [\n            {_quoted(media)}\n        ]'
    parts.insert(0 if task.startswith("ecpe") else 2, clip)
    return "    {\n" + ",\n".join(parts) + "\n    }"


class RecordList:
    """Stream records into a JSON file, exactly as ``json.dumps(records, indent=4, ensure_ascii=False)`` writes them."""

    def __init__(self, handle: IO[str]) -> None:
        self._handle = handle
        self._count = 0

    def add(self, text: str) -> None:
        """Write one ``record``."""
        self._handle.write(("[\n" if self._count == 0 else ",\n") + text)
        self._count += 1

    def end(self) -> None:
        """Close the list; the authors' files end without a line end."""
        self._handle.write("\n]" if self._count else "[]")


def write_records(path: Path, records: Iterable[str]) -> None:
    """Write a whole published file, at once or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as handle:
            listing = RecordList(handle)
            for one in records:
                listing.add(one)
            listing.end()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
