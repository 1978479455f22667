"""Open annotation files strictly: UTF-8 or an error that names the byte, and rows that know their line."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from emoverse.corpora import EMOTIONS, Quarantined
from emoverse.errors import RowErrors, UserError, did_you_mean

LONGEST: Final = 1000  # characters of a detail, which quotes the content of the cell
_NUMBER: Final = re.compile(r"(?:0|[1-9][0-9]{0,8})\Z")


class BadRow(Exception):  # noqa: N818 (a verdict on a row, not an error of the program)
    """Report why one row is set aside."""

    def __init__(self, column: str, reason: str, detail: str) -> None:
        self.column, self.reason, self.detail = column, reason, detail
        super().__init__(f"{column}: {detail}")


@dataclass
class Problems:
    """The bad rows of one file, and counts worth reporting; ``name`` is its path relative to the corpus root."""

    name: str
    bad_rows: list[Quarantined] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, row_id: str, row: int | str, column: str, reason: str, detail: str, *, clip: str = "") -> None:
        """Set one row aside.

        Args:
            row_id: Id of the row.
            row: Its line, or its place in a JSON file.
            column: The column at fault; empty for the row as a whole.
            reason: A short stable code.
            detail: What is wrong.
            clip: Expected path of the row's clip.
        """
        source, detail = f"{self.name}:{row}", detail if len(detail) <= LONGEST else f"{detail[:LONGEST]}…"
        self.bad_rows.append(
            Quarantined(row_id=row_id, source=source, column=column, reason=reason, detail=detail, clip=nfc(clip))
        )

    def add_all(self, row_id: str, row: int | str, faults: Sequence[BadRow], *, clip: str = "") -> None:
        """Set one row aside for all its faults, the first of which gives column and reason.

        Args:
            row_id: Id of the row.
            row: Its line, or its place in a JSON file.
            faults: At least one.
            clip: Expected path of the row's clip.
        """
        first, *others = faults
        detail = "; also ".join([first.detail, *map(str, others)])
        self.add(row_id, row, first.column, first.reason, detail, clip=clip)


def faults_of(fault: BadRow, checks: Iterable[Callable[[], object]]) -> list[BadRow]:
    """Return the problem a row was refused for, then those that the other checks raise: all are listed at once."""
    faults = [fault]
    for check in checks:
        try:
            check()
        except BadRow as other:
            if (other.column, other.detail) not in [(known.column, known.detail) for known in faults]:
                faults.append(other)
    return faults


class Row(NamedTuple):
    """One CSV row: the line it begins on (the header is line 1) and its cells in the requested order."""

    line: int
    cells: tuple[str, ...]


def decode(path: Path) -> str:
    """Read a text file strictly as UTF-8, a byte-order mark aside; line ends stay as they are.

    Raises:
        UserError: It is missing, or has bytes that are not UTF-8 (their offsets are named).
    """
    return _decode(path, _read(path))


def json_list(path: Path, kind: str, remedy: str) -> list[Any]:
    """Read a JSON file that contains a list.

    Args:
        path: The file.
        kind: What the items are, in the plural, for messages.
        remedy: What to do when the file has no such list.

    Raises:
        UserError: As `decode` does, or the file is not JSON (line and column are named) or has no list.
    """
    raw = _read(path)
    try:
        items = orjson.loads(raw.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        _decode(path, raw)  # when it is not UTF-8, that is the fault to name
        place = f"{path}:{error.lineno}:{error.colno}"
        raise UserError(f"not JSON: {error.msg}", place=place, remedy=remedy) from None
    if not isinstance(items, list):
        raise UserError(f"is not a list of {kind}", place=str(path), remedy=remedy)
    return items


def _decode(path: Path, raw: bytes) -> str:
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError:
        raise _not_utf8(path, raw) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            "no such file", place=str(path), remedy="check the path, and docs/corpora.md for names"
        ) from None
    except IsADirectoryError:
        raise UserError("is a folder, not a file", place=str(path), remedy="give the file itself") from None


def _not_utf8(path: Path, raw: bytes) -> UserError:
    """Return the error that names the first bad byte of every line; offsets count from 0, as ``xxd -s`` wants them."""
    problems, offset = [], 0
    for number, line in enumerate(raw.split(b"\n"), start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            at = offset + error.start
            problems.append(f"byte 0x{raw[at]:02x} at offset {at} (line {number}) is not UTF-8")
        offset += len(line) + 1
    remedy = "save the file as UTF-8 without changing its text"
    if len(problems) == 1:
        return UserError(problems[0], place=str(path), remedy=remedy)
    return RowErrors([f"{path}: {problem}" for problem in problems], remedy=remedy)


def rows_of(path: Path, columns: Sequence[str], problems: Problems) -> Iterator[Row]:
    """Yield the rows of a CSV file with a header, cells of ``columns`` by name; malformed rows go to ``problems``.

    Raises:
        UserError: A column is missing (the nearest is named), the file is empty, or an unclosed quotation mark swallows
            other rows.
    """
    text = decode(path)
    # StringIO with newline="" breaks lines at \n, \r\n and \r only: U+0085 and U+2028 occur inside real utterances.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        raise _unquoted(path, 1, error) from None
    pick = itemgetter(*_picks(header, columns, str(path)))
    has_nul = "\0" in text
    start = reader.line_num + 1
    while True:
        try:
            for cells in reader:
                line, start = start, reader.line_num + 1
                if not cells:
                    continue
                if len(cells) != len(header) or start - line > 1 or has_nul:
                    if fault := _malformed(cells, header, start - line):
                        problems.add(f"{problems.name}:{line}", line, *fault)
                        continue
                    problems.notes["line-feed-in-cell"] += start - line > 1
                yield Row(line, pick(cells))
            return
        except csv.Error as error:
            if reader.line_num != start or "unexpected end" in str(error):
                raise _unquoted(path, start, error) from None
            detail = f"not valid CSV: {error}; close or double the quotation mark"
            problems.add(f"{problems.name}:{start}", start, "", "bad-quote", detail)
            start = reader.line_num + 1


def _unquoted(path: Path, line: int, error: csv.Error) -> UserError:
    remedy = "close or double the quotation mark on that line"
    return UserError(f"not valid CSV: {error}", place=f"{path}:{line}", remedy=remedy)


def _picks(header: list[str], columns: Sequence[str], name: str) -> list[int]:
    if not header:
        raise UserError("is empty: it has no header", place=name, remedy="fetch the file again")
    missing = [column for column in columns if column not in header]
    if len(missing) == len(columns):
        remedy = "give the corpus's own annotation file"
        raise UserError(f"is not a CSV file with the header {','.join(columns)}", place=f"{name}:1", remedy=remedy)
    if missing:
        hints = "; ".join(f"{column!r}: {did_you_mean(column, header)}" for column in missing)
        raise UserError(f"lacks column(s) {hints}", place=f"{name}:1", remedy="restore the header")
    twice = sorted({column for column in columns if header.count(column) > 1})
    if twice:
        raise UserError(f"has column(s) {', '.join(twice)} twice", place=f"{name}:1", remedy="keep one of each")
    return [header.index(column) for column in columns]


def _malformed(cells: list[str], header: list[str], lines: int) -> tuple[str, str, str] | None:
    """Return (column, reason, detail) of a row that has NUL, another width than the header, or swallowed another row.

    A line break in a quoted cell is valid CSV. But a line with as many commas as the header is another row, which a
    missing quotation mark made part of the cell.
    """
    if lines > 1:
        broken = [i for i, cell in enumerate(cells) if any(line.count(",") >= len(header) - 1 for line in _lines(cell))]
        if broken or len(cells) != len(header):
            column = header[broken[0]] if broken and broken[0] < len(header) else ""
            return column, "line-break", f"a quoted cell runs over {lines} lines; a closing quotation mark is missing"
    if len(cells) != len(header):
        return "", "ragged-row", f"{len(cells)} cells where the header has {len(header)}"
    if "\0" not in "".join(cells):
        return None
    for column, cell in zip(header, cells, strict=True):
        if "\0" in cell:
            return column, "nul-byte", f"NUL at character {cell.index(chr(0)) + 1} of the cell"
    return None


def _lines(cell: str) -> list[str]:
    """Return the lines of a cell that contains a line break."""
    lines = re.split(r"[\r\n]+", cell)
    return lines if len(lines) > 1 else []


# Windows-1252's punctuation, which files saved as Latin-1 and then as UTF-8 contain as control characters.
_CP1252: Final = {code: bytes([code]).decode("cp1252") for code in (0x85, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97)}
_C1: Final = re.compile(r"[\x80-\x9f]")
_FILLERS: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and a symbol that are drawn as nothing


def cleaned(column: str, text: str, notes: Counter[str]) -> str:
    """Return text with the punctuation that an encoding mistake turned into control characters; count it in ``notes``.

    Raises:
        BadRow: The text has no visible character, or another control character of the C1 block.
    """
    if text.isascii():
        if not text.strip():
            raise BadRow(column, "empty-text", f"{text!r} has no visible character")
        return text
    mapped = text.translate(_CP1252)
    if unknown := _C1.search(mapped):
        code = f"U+{ord(unknown[0]):04X}"
        raise BadRow(column, "control-character", f"{code} at character {unknown.start() + 1} is a control character")
    if is_invisible(mapped):
        raise BadRow(column, "empty-text", f"{text!r} has no visible character")
    notes["cp1252-punctuation-mapped"] += mapped != text
    return mapped


def is_invisible(text: str) -> bool:
    """Return whether nothing of a text can be seen: blanks, controls, format characters, marks without a letter."""
    return all(unicodedata.category(char)[0] in "ZCM" or char in _FILLERS for char in text)


def find_folder(root: Path, folders: Sequence[str], pattern: str) -> str:
    """Return the first of some folders (relative) with a file that matches a pattern, else the first of them.

    Each is looked for in ``root``, then one folder deeper.
    """
    inner = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for parent in (root, *inner):
        for folder in folders:
            if any((parent / folder).glob(pattern)):
                return (parent / folder).relative_to(root).as_posix()
    return folders[0]


@lru_cache(maxsize=1 << 14)
def whole_number(text: str) -> int | None:
    """Read a plain decimal such as ``0`` or ``128258``; None for signs, spaces, leading zeros and other digits."""
    return int(text) if _NUMBER.match(text) else None


@lru_cache(maxsize=1 << 14)
def unsafe(part: str) -> str | None:
    """Return why an id cannot be part of a path or an id, None when it can."""
    if not part or part in (".", ".."):
        return f"{part!r} is not a valid name"
    if "/" in part or "\\" in part:
        return f"{part!r} contains a path separator"
    # all control characters are unprintable, and few ids hold anything unprintable
    controls = not part.isprintable() and any(unicodedata.category(char) == "Cc" for char in part)
    if part != part.strip() or controls:
        return f"{part!r} contains surrounding blanks or control characters"
    return None


def nfc(path: str) -> str:
    """Return a path in Unicode NFC, the one form the tables use."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


_SYNONYMS: Final = {
    "happy": "joy", "happiness": "joy", "joyful": "joy", "sad": "sadness", "angry": "anger", "mad": "anger",
    "surprised": "surprise", "disgusted": "disgust", "afraid": "fear", "scared": "fear", "fearful": "fear",
    "calm": "neutral", "none": "neutral",
}  # fmt: skip


def emotion_hint(text: str) -> str:
    """Return ``"did you mean 'joy'?"`` for ``hapy`` and ``joi`` alike, or the list of emotions."""
    matches = difflib.get_close_matches(text.lower(), [*EMOTIONS, *_SYNONYMS], n=1, cutoff=0.7)
    return f"did you mean {_SYNONYMS.get(matches[0], matches[0])!r}?" if matches else did_you_mean(text, EMOTIONS)


_CLOCK: Final = re.compile(r"(\d{1,2}):([0-5]\d):([0-5]\d)\Z", re.ASCII)
_REST: Final = re.compile(r"[,.](\d{3})\Z", re.ASCII)
_SHORT: Final = re.compile(r"(.*)[,.](\d{1,2})\Z", re.ASCII)


def seconds(text: str) -> float | None:
    """Read ``00:14:38,127``, ``0:10:44,769`` or ``00:06:47.28`` as seconds; None when it has another form.

    Three real rows have two digits after the separator. They are milliseconds written without a leading zero: both
    corpora took them from subtitles, which count milliseconds.
    """
    whole, rest = _whole(text[:-4]), _thousandths(text[-4:])
    if whole is None or rest is None:
        match = _SHORT.match(text)
        whole, rest = (_whole(match[1]), int(match[2])) if match else (None, None)
    return None if whole is None or rest is None else (whole * 1000 + rest) / 1000


# Both parts of a time recur in a corpus, so each is parsed once.
@lru_cache(maxsize=1 << 13)
def _whole(text: str) -> int | None:
    match = _CLOCK.match(text)
    return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3]) if match else None


@lru_cache(maxsize=1 << 11)
def _thousandths(text: str) -> int | None:
    match = _REST.match(text)
    return int(match[1]) if match else None


@lru_cache(maxsize=1 << 12)
def episode_name(season: int, episode: int) -> str:
    """Return ``"S01E02"``."""
    return f"S{season:02d}E{episode:02d}"
