"""Read prediction files of other projects as rows of ours: ``response``, ``labels``, ``videos``, ``query``.

The container (JSON lines, JSON, CSV, TSV, Excel, NumPy) is recognised by the file's name and first character, the
project by the keys of its rows. The text of a reply is never changed here.
"""

from __future__ import annotations

import csv
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np

from emoverse.errors import UserError, did_you_mean
from emoverse.inference.test_sets import AmtRow, read_jsonl

NumberedRow = tuple[int, AmtRow, str]
"""(line or record number, row, problem): the problem is empty for a good row."""
LARGEST: Final = 1 << 30  # bytes of an unpacked spreadsheet or array
_REPLIES: Final = (
    "response",
    "prediction",
    "predictions",
    "pred",
    "predicted",
    "reply",
    "output",
    "model_output",
    "generated",
)
_ANSWERS: Final = (
    "labels",
    "label",
    "target",
    "answer",
    "ground_truth",
    "gt",
    "gold",
    "reference",
    "emotion",
    "sentiment",
)
_CLIPS: Final = (
    "videos",
    "images",
    "video",
    "video_path",
    "image",
    "clip",
    "sample_id",
    "utterance_id",
    "name",
    "id",
    "index",
)
_QUESTIONS: Final = ("query", "question", "prompt", "instruction")
_BROKEN: Final = (
    ValueError, KeyError, EOFError, csv.Error, zipfile.BadZipFile, ElementTree.ParseError, pickle.UnpicklingError,
)  # fmt: skip
_SHEET: Final = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def read_rows(path: Path, name: str = "auto") -> list[NumberedRow]:
    """Return the rows of a prediction or gold file.

    Args:
        path: The file.
        name: One of ``FORMATS``, or ``auto`` to recognise each row by its keys.

    Raises:
        UserError: The file cannot be read, or the format is unknown.
    """
    if name != "auto" and name not in FORMATS:
        raise UserError(f"unknown format {name!r}", place="--format", remedy=did_you_mean(name, ("auto", *FORMATS)))
    rows = []
    for number, row, problem in _container(path):
        if not problem:
            row, problem = _converted(row, name)
        rows.append((number, row, problem))
    return rows


def _converted(row: AmtRow, name: str) -> tuple[AmtRow, str]:
    if name == "auto" and ("channel" in row or "gold" in row or "messages" in row):  # ours or ms-swift's
        return row, ""
    for known, (keys, convert) in FORMATS.items():
        if known == name or (name == "auto" and keys <= row.keys()):
            if missing := sorted(keys - row.keys()):
                return {}, f"no {', '.join(missing)}, which a file of {known} has"
            return convert(row), ""
    return row, ""


def _container(path: Path) -> Iterator[NumberedRow]:
    readers: dict[str, Callable[[Path], Iterable[Mapping[str, Any]]]] = {
        ".csv": _csv, ".tsv": _csv, ".xlsx": _xlsx, ".npz": _npz,
    }  # fmt: skip
    if path.suffix in (".pkl", ".pickle"):
        raise UserError("a pickle may run code", place=str(path), remedy="save it as JSON: Ids, SResults, Labels")
    reader = readers.get(path.suffix.lower())
    if reader is None:
        yield from _json(path) if path.suffix == ".json" or _is_json(path) else read_jsonl(path)
        return
    try:
        yield from ((number, dict(row), "") for number, row in enumerate(reader(path), 1))
    except FileNotFoundError:
        raise UserError("no such file", place=str(path), remedy="check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 ({error})", place=str(path), remedy="save it as UTF-8") from None
    except (
        ValueError,
        KeyError,
        csv.Error,
        zipfile.BadZipFile,
        ElementTree.ParseError,
        pickle.UnpicklingError,
    ) as error:
        raise UserError(f"cannot be read as {path.suffix} ({error})", place=str(path), remedy="save it again") from None


def _is_json(path: Path) -> bool:
    """Return whether a file that is not named .json is one JSON value over several lines, or a list."""
    try:
        with path.open(encoding="utf-8-sig") as handle:
            first = handle.readline(1 << 16).strip()
            return first.startswith("[") or (first == "{" and bool(handle.readline()))
    except (OSError, UnicodeDecodeError):
        return False  # read_jsonl names the problem


def _json(path: Path) -> Iterator[NumberedRow]:
    try:
        tree = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise UserError("no such file", place=str(path), remedy="check the path") from None
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", place=str(path), remedy="check the path") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON ({error})", place=str(path), remedy="give a whole JSON file") from None
    for number, row in enumerate(_records(tree, path), 1):
        good = isinstance(row, dict)
        yield number, row if good else {}, "" if good else "not a JSON object"


def _records(tree: Any, path: Path) -> list[Any]:
    """Return the records of a JSON file: a list, or one of the objects that lmms-eval, MMSA and AffectGPT write."""
    if isinstance(tree, dict):
        if isinstance(tree.get("samples"), dict) and len(tree["samples"]) == 1:
            tree = next(iter(tree["samples"].values()))
        elif isinstance(tree.get("logs"), list):
            tree = tree["logs"]
        elif names := next((key for key in ("Ids", "ids") if isinstance(tree.get(key), list)), ""):
            keys = [key for key, values in tree.items() if isinstance(values, list) and len(values) == len(tree[names])]
            return [dict(zip(keys, values, strict=True)) for values in zip(*(tree[key] for key in keys), strict=True)]
        elif isinstance(tree.get("name2reason", tree), dict):
            replies = tree.get("name2reason", tree)
            if replies and all(isinstance(reply, str) for reply in replies.values()):
                return [{"name2reason": name, "response": reply} for name, reply in replies.items()]
    if not isinstance(tree, list):
        raise UserError("holds no JSON list of records", place=str(path), remedy="give a test set or predictions")
    return tree


def _csv(path: Path) -> Iterable[Mapping[str, Any]]:
    text = path.read_text("utf-8-sig")
    csv.field_size_limit(1 << 24)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else csv.Sniffer().sniff(text.split("\n", 1)[0], ",;\t").delimiter
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    for row in rows:
        if None in row or None in row.values():
            raise ValueError(f"line {rows.line_num} has another number of cells than the head")
        yield row


def _xlsx(path: Path) -> Iterable[Mapping[str, Any]]:
    """Yield the rows of a workbook's first sheet, as VLMEvalKit writes it: a head, then text and number cells."""
    with zipfile.ZipFile(path) as archive:
        strings: list[str] = []
        if "xl/sharedStrings.xml" in archive.namelist():
            items = ElementTree.fromstring(_member(archive, "xl/sharedStrings.xml")).iter(f"{_SHEET}si")
            strings = ["".join(text.text or "" for text in item.iter(f"{_SHEET}t")) for item in items]
        sheet = ElementTree.fromstring(_member(archive, "xl/worksheets/sheet1.xml"))
    head: list[str] = []
    for row in sheet.iter(f"{_SHEET}row"):
        cells: dict[str, str] = {}
        for cell in row.iter(f"{_SHEET}c"):
            value = "".join(part.text or "" for part in cell.iter() if part.tag in (f"{_SHEET}v", f"{_SHEET}t"))
            column = cell.get("r", "").rstrip("0123456789")
            cells[column] = strings[int(value)] if cell.get("t") == "s" else value
        if not head:
            head, columns = list(cells.values()), list(cells)
        else:
            yield {name: cells.get(column, "") for name, column in zip(head, columns, strict=True)}


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > LARGEST:
        raise ValueError(f"{name} is larger than {LARGEST >> 20} MB")
    return archive.read(name)


def _npz(path: Path) -> Iterable[Mapping[str, Any]]:
    """Yield AffectGPT's replies by clip, from a pickled dictionary that may hold nothing but strings and numbers."""
    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(_member(archive, "name2reason.npy"))
    version = np.lib.format.read_magic(content)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    read(content)
    replies = _Unpickler(content).load().item()
    return [{"name2reason": name, "response": reply} for name, reply in replies.items()]


class _Unpickler(pickle.Unpickler):
    """Load numpy's object arrays of built-in values; refuse anything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        arrays = {"numpy.core.multiarray", "numpy._core.multiarray"}
        if (module in arrays and name == "_reconstruct") or (module == "numpy" and name in ("ndarray", "dtype")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no plain value")


def _first(row: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((row[key] for key in keys if row.get(key) not in (None, "", [])), None)


def _text(value: Any) -> Any:
    """Return the first string of nested lists; numbers as text; other values unchanged."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _row(response: Any, answer: Any, clip: Any, question: Any) -> AmtRow:
    row = {"response": _text(response), "labels": _text(answer), "videos": _text(clip), "query": _text(question)}
    return {key: value for key, value in row.items() if value is not None}


def _lmms_eval(row: AmtRow) -> AmtRow:
    doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
    answer = row["target"] if row.get("target") not in (None, "") else _first(doc, _ANSWERS)
    return _row(_first(row, ("filtered_resps", "resps")), answer, _first(doc, _CLIPS), _first(doc, _QUESTIONS))


def _vlmevalkit(row: AmtRow) -> AmtRow:
    answer = row["answer"]
    # A multiple-choice row: its options are columns A, B, ... and its answer is a letter.
    options = {
        key: str(value) for key, value in row.items() if len(key) == 1 and key.isupper() and value not in (None, "")
    }
    reply = str(row["prediction"])
    if answer in options:
        letter = reply.strip().strip("().: ").upper()
        answer, reply = options[answer], options.get(letter, reply)
    return _row(reply, answer, _first(row, _CLIPS), _first(row, _QUESTIONS))


def _mmsa(row: AmtRow) -> AmtRow:
    value = _text(_first(row, ("Labels", "TrueLabels")))
    name = str(_first(row, ("Ids", "ids"))).replace("$_$", "/")
    return _row(_first(row, ("SResults", "PredResults")), value, name, None)


def _affectgpt(row: AmtRow) -> AmtRow:
    return _row(row["response"], None, row["name2reason"], None)


def _emotion_llama(row: AmtRow) -> AmtRow:
    return _row(
        row["prediction"], row["target"], _first(row, ("sample_id", "instance_id", *_CLIPS)), _first(row, _QUESTIONS)
    )


def _any(row: AmtRow) -> AmtRow:
    return _row(_first(row, _REPLIES), _first(row, _ANSWERS), _first(row, _CLIPS), _first(row, _QUESTIONS))


def _unchanged(row: AmtRow) -> AmtRow:
    return row


FORMATS: Final[Mapping[str, tuple[frozenset[str], Callable[[AmtRow], AmtRow]]]] = {
    "affectgpt": (frozenset(("name2reason", "response")), _affectgpt),
    "ms-swift": (frozenset(("response",)), _unchanged),
    "lmms-eval": (frozenset(("resps",)), _lmms_eval),
    "mmsa": (frozenset(("Ids",)), _mmsa),
    "emotion-llama": (frozenset(("prediction", "target")), _emotion_llama),
    "vlmevalkit": (frozenset(("prediction", "answer")), _vlmevalkit),
    "table": (frozenset(), _any),
}
"""By project: the keys that every row has, and what makes a row of ours of it. The first that fits is taken."""
