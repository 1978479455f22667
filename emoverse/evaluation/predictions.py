"""Read a predictions file, ours, ms-swift's of any version or somebody else's, and hold it against its gold records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from emoverse.errors import RowErrors, UserError
from emoverse.inference.testsets import Row, read_jsonl
from emoverse.tasks import task as task_named

_TAGS: Final = re.compile(r"^(?:<(?:video|image)>)+")
_DIALOGUE: Final = re.compile(r"(dia\d+)_?utt\d+", re.ASCII)
_LABEL_KEYS: Final = ("labels", "label")
_REMEDY: Final = "score the file as the model wrote it, against the test set it was made from"


@dataclass(frozen=True)
class Prediction:
    """One reply to one gold record; ``name`` is what the record is called in messages, ``key`` tells it from others."""

    place: str
    name: str
    key: tuple[str, ...]
    reply: str
    gold: dict[str, Any]
    group: str


def read_predictions(path: Path, task: str, *, gold: Path | None = None, corpus: str = "") -> list[Prediction]:
    """Read a JSON-lines file of predictions, in its order.

    The reply is ``response``; the right answer ``labels`` (ms-swift 3 and later) or ``label`` (2.x), or our ``gold``.
    ``gold`` is the test set the file must answer: AMT's JSON lines or the authors' published JSON. Raises RowErrors
    listing every broken or repeated row and, given ``gold``, every missing or foreign row and changed answer.
    """
    rows, problems = _good_rows(path)
    where = corpus or _corpus(task, [row for _, row in rows])
    found = [_prediction(f"{path.name}:{number}", row, task, where) for number, row in rows]
    problems += _repeats(found) + _foreign(found)
    if gold is not None and not problems:
        records = [_record(f"{gold.name}:{number}", row, task, where) for number, row in _records(gold)]
        found, more = _matched(found, records)
        problems += more
    if problems:
        raise RowErrors(problems, remedy=_REMEDY)
    if len({tuple(one.gold["answers"] or ()) for one in found}) > 1:
        raise UserError("its rows have different label sets", place=str(path), remedy="score each corpus by itself")
    if not found:
        raise UserError("it holds no prediction", place=str(path), remedy="give the file a model's replies are in")
    return found


def _good_rows(path: Path) -> tuple[list[tuple[int, Row]], list[str]]:
    rows: list[tuple[int, Row]] = []
    problems: list[str] = []
    for number, row, problem in read_jsonl(path):
        what = problem or _wrong(row)
        if what:
            problems.append(f"{path.name}:{number}: {what}")
        else:
            rows.append((number, row))
    return rows, problems


def _wrong(row: Row) -> str:
    if not isinstance(row.get("response"), str):
        return "response: no reply of the model"
    gold = row.get("gold")
    if isinstance(gold, dict) and "answer" in gold:
        told = next((row[key] for key in _LABEL_KEYS if isinstance(row.get(key), str)), gold["answer"])
        return "" if told == gold["answer"] else f"labels: {told!r}, but its own gold says {gold['answer']!r}"
    return "" if any(isinstance(row.get(key), str) for key in _LABEL_KEYS) else "labels: no right answer"


def _prediction(place: str, row: Row, task: str, corpus: str) -> Prediction:
    answer = next((row[key] for key in _LABEL_KEYS if isinstance(row.get(key), str)), "")
    return _entry(place, row, task, corpus, str(row["response"]), answer)


def _record(place: str, row: Row, task: str, corpus: str) -> Prediction:
    """Read a gold record: a row of AMT's test files, or one of the authors' with query, response and videos."""
    return _entry(place, row, task, corpus, "", str(row.get("response", "")))


def _entry(place: str, row: Row, task: str, corpus: str, reply: str, answer: str) -> Prediction:
    query, media, given = _query(row), _media(row), row.get("gold")
    gold = dict(given) if isinstance(given, dict) else task_named(task).gold(answer, corpus=corpus, query=query)
    channel = str(row.get("channel") or "")
    group = str(gold.get("group") or _group(media) or channel or place)
    key = (channel,) if channel else ("/".join(media.split("/")[-2:]), query)
    return Prediction(place, channel or media or place, key, reply, gold, group)


def _query(row: Row) -> str:
    asked = [message["content"] for message in row.get("messages") or () if message.get("role") == "user"]
    return _TAGS.sub("", str(asked[-1] if asked else row.get("query", "")))


def _media(row: Row) -> str:
    for shown in (*(row.get("videos") or ()), *(row.get("images") or ())):
        return str(shown.get("path") if isinstance(shown, dict) else shown)
    return ""


def _group(media: str) -> str:
    """Return the dialogue or the long video that a clip's path names, empty where it names none."""
    folder, _, name = media.rpartition("/")
    dialogue = _DIALOGUE.match(name)
    return f"{folder}/{dialogue[1]}" if dialogue else folder


def _corpus(task: str, rows: Sequence[Row]) -> str:
    """Guess whose labels a file without a corpus uses: "Happy." is CMU-MOSEI's word, MELD's is "Joy."."""
    named = {str(row["corpus"]) for row in rows if row.get("corpus")}
    if len(named) == 1:
        return named.pop()
    happy = any(row.get(key) == "Happy." for row in rows for key in _LABEL_KEYS)
    return "mosei" if happy or task == "msa" else "ecf" if task == "ecpe" else "meld"


def _records(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the records of a gold file: JSON lines, or one JSON list."""
    if path.suffix == ".json":
        try:
            rows = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise UserError("no such file", place=str(path), remedy="check the path") from None
        except ValueError as error:
            raise UserError(f"not valid JSON ({error})", place=str(path), remedy="give a test set") from error
        yield from enumerate(rows, 1)
        return
    for number, row, problem in read_jsonl(path):
        if problem:
            raise UserError(problem, place=f"{path}:{number}", remedy="give a test set as build-amt wrote it")
        yield number, row


def _repeats(found: Sequence[Prediction]) -> list[str]:
    seen: dict[tuple[str, ...], str] = {}
    problems = []
    for one in found:
        if not any(
            one.key
        ):  # nothing tells rows of such a file apart: equal questions about unnamed clips are no fault
            continue
        if one.key in seen:
            problems.append(f"{one.place}: {one.name}: answered at {seen[one.key]} already")
        seen.setdefault(one.key, one.place)
    return problems


def _foreign(found: Sequence[Prediction]) -> list[str]:
    """List answers that the task does not allow: another task's file, or another corpus's labels."""
    return [
        f"{one.place}: {one.name}: labels: {one.gold['answer']!r} is not one of {', '.join(one.gold['answers'])}"
        for one in found
        if one.gold["answers"] and one.gold["answer"] not in one.gold["answers"]
    ]


def _matched(found: Sequence[Prediction], records: Sequence[Prediction]) -> tuple[list[Prediction], list[str]]:
    """Pair predictions with gold records; the record's gold counts, a different answer in the file is a problem."""
    told, known = _keyed(found, records)
    strangers = (one for key, one in told.items() if key not in known)
    problems = [f"{one.place}: {one.name}: not a record of the gold file" for one in strangers]
    problems += [f"{one.place}: {one.name}: has no prediction" for key, one in known.items() if key not in told]
    pairs = [(one, known[key]) for key, one in told.items() if key in known]
    for one, gold in pairs:
        if one.gold["answer"] != gold.gold["answer"]:
            changed = f"the answer is {gold.gold['answer']!r} ({gold.place}), the file says {one.gold['answer']!r}"
            problems.append(f"{one.place}: {one.name}: {changed}")
    whole = [Prediction(a.place, a.name, a.key, a.reply, b.gold, b.group) for a, b in pairs]
    return whole, problems


def _keyed(
    found: Sequence[Prediction], records: Sequence[Prediction]
) -> tuple[Mapping[tuple[str, ...], Prediction], Mapping[tuple[str, ...], Prediction]]:
    one, other = ({item.key: item for item in items} for items in (found, records))
    for items, table in ((found, one), (records, other)):
        if len(items) != len(table):
            problems = _repeats(items) or ["rows without id, clip and question cannot be held against a gold file"]
            raise RowErrors(problems, remedy=_REMEDY)
    return one, other
