"""Read a predictions file, ours, ms-swift's of any version or somebody else's, and hold it against its gold records."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from emoverse.errors import RowErrors, UserError
from emoverse.evaluation.matching import Prediction, against_gold, repeats
from emoverse.inference.test_sets import AmtRow, read_jsonl
from emoverse.tasks import task as task_named

_TAGS: Final = re.compile(r"^(?:<(?:video|image)>)+")
_DIALOGUE: Final = re.compile(r"(dia\d+)_?utt\d+", re.ASCII)
_REMEDY: Final = "score the file as the model wrote it, against the test set it was made from"


def read_predictions(
    path: Path, task: str, *, gold: Path | None = None, corpus: str = "", name: str = ""
) -> list[Prediction]:
    """Read a JSON-lines file of predictions, in its order; messages call it ``name``, by default as its folder does.

    The reply is ``response``; the right answer ``labels`` (ms-swift 3 and later) or ``label`` (2.x), or our ``gold``.
    ``gold`` is the test set the file must answer: AMT's JSON lines or the authors' published JSON. ``corpus`` says
    whose labels they are. Raises RowErrors listing every broken, repeated or foreign row and, given ``gold``, every
    missing one and every changed gold.
    """
    name = name or path.name
    rows, problems = _good_rows(path, name)
    where = corpus or _corpus(task, [row for _, row in rows])
    found = _entries(rows, name, task, where, problems)
    problems += repeats(found) + (_strangers(rows, task, name, corpus) or _foreign(found, task))
    if gold is not None and not problems:
        records = _entries(list(_records(gold)), gold.name, task, where, problems, is_gold=True)
        if not problems:
            found, problems = against_gold(found, records)
    if problems:
        raise RowErrors(problems, remedy=_REMEDY)
    if len({tuple(one.gold["answers"] or ()) for one in found}) > 1:
        raise UserError("its rows have different label sets", place=str(path), remedy="score each corpus by itself")
    if not found:
        raise UserError("it holds no prediction", place=str(path), remedy="give the file a model's replies are in")
    return found


def _good_rows(path: Path, name: str) -> tuple[list[tuple[int, AmtRow]], list[str]]:
    rows: list[tuple[int, AmtRow]] = []
    problems: list[str] = []
    for number, row, problem in read_jsonl(path):
        what = problem or wrong_prediction(row)
        if what:
            problems.append(f"{name}:{number}: {what}")
        else:
            rows.append((number, row))
    return rows, problems


def _entries(
    rows: Sequence[tuple[int, AmtRow]], name: str, task: str, corpus: str, problems: list[str], *, is_gold: bool = False
) -> list[Prediction]:
    """Read rows of the file ``name``; what is wrong with the gold they carry is added to ``problems``.

    A gold record's reply is its right answer: AMT's test rows have it in ``gold``, the authors' as ``response``.
    """
    found = []
    for number, row in rows:
        place = f"{name}:{number}"
        reply, answer = ("", str(row.get("response") or "")) if is_gold else (row["response"], label_of(row) or "")
        own = dict(row.get("gold") or {})
        read = task_named(task).gold(str(own.get("answer", answer)), corpus=corpus, query=_query(row))
        if problem := wrong_gold(own, read):
            problems.append(f"{place}: {problem}")
        else:
            found.append(_entry(place, row, reply, own, read))
    return found


def _entry(place: str, row: AmtRow, reply: str, own: AmtRow, read: AmtRow) -> Prediction:
    query, media = _query(row), _media(row)
    if bool(own.get("answers")) != bool(read["answers"]):  # another task's gold, or one that says less than ours
        own.pop("answers", None)
    channel = str(row.get("channel") or "")
    dialogue = _dialogue(media)
    group = str(own.get("group") or dialogue or media.rpartition("/")[0] or channel or place)
    shown = ("/".join(media.removeprefix("clip:").split("/")[-2:]).removesuffix(".mp4"), query)
    gold = {**read, **({"group": dialogue} if dialogue else {}), **own}
    return Prediction(place, channel or media or place, channel, shown, reply, gold, group, own)


def _query(row: AmtRow) -> str:
    asked = [message["content"] for message in row.get("messages") or () if message["role"] == "user"]
    return _TAGS.sub("", asked[-1] if asked else row.get("query") or "")


def _media(row: AmtRow) -> str:
    for key in ("videos", "images"):
        shown = row.get(key) or []
        for one in shown if isinstance(shown, list) else [shown]:
            return str((one.get("path") if isinstance(one, dict) else one) or "")
    return ""


def _dialogue(media: str) -> str:
    """Return the dialogue that a clip's path names, empty where it names none."""
    folder, _, name = media.rpartition("/")
    found = _DIALOGUE.match(name)
    return f"{folder}/{found[1]}" if found else ""


def _corpus(task: str, rows: Sequence[AmtRow]) -> str:
    """Return the corpus that the rows name, else the task's guess from their right answers."""
    named = {str(row["corpus"]) for row in rows if row.get("corpus")}
    if len(named) == 1:
        return named.pop()
    return task_named(task).default_corpus(str(row[key]) for row in rows for key in LABEL_KEYS if key in row)


def _records(path: Path) -> Iterator[tuple[int, AmtRow]]:
    """Yield the records of a gold file: JSON lines, or one JSON list."""
    for number, row, problem in _json_list(path) if path.suffix == ".json" else read_jsonl(path):
        if what := problem or wrong_record(row):
            raise UserError(what, place=f"{path}:{number}", remedy="give a test set as build-amt wrote it")
        yield number, row


def _json_list(path: Path) -> Iterator[tuple[int, AmtRow, str]]:
    try:
        rows = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", place=str(path), remedy="check the path") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON ({error})", place=str(path), remedy="give a test set") from None
    if not isinstance(rows, list):
        raise UserError("holds no JSON list of records", place=str(path), remedy="give a test set")
    for number, row in enumerate(rows, 1):
        good = isinstance(row, dict)
        yield number, row if good else {}, "" if good else "not a JSON object"


def _foreign(found: Sequence[Prediction], task: str) -> list[str]:
    """List answers that the task does not allow: another task's file, or another corpus's labels."""
    problems = []
    for one in found:
        answer, answers = one.gold["answer"], one.gold["answers"]
        if answers and answer not in answers:
            problems.append(f"{one.label}: labels: {answer!r} is not one of {', '.join(answers)}")
        elif not answers and not task_named(task).free_text and task_named(task).parse(str(answer), one.gold) is None:
            problems.append(f"{one.label}: labels: {answer!r} is no answer of task {task}")
    return problems


def _strangers(rows: Sequence[tuple[int, AmtRow]], task: str, name: str, corpus: str) -> list[str]:
    """List rows that say they are of another task, or of another corpus than was said, or than most of the file."""
    told = [(number, *_test_set(row)) for number, row in rows]
    corpora = Counter(its_corpus for _, _, its_corpus in told if its_corpus)
    main = corpus or (corpora.most_common(1)[0][0] if corpora else "")
    problems = []
    for number, its_task, its_corpus in told:
        if (its_task and its_task != task) or (its_corpus and its_corpus != main):
            home = f"{its_corpus or main}-{its_task or task}".lstrip("-")
            wanted = f"{main}-{task}".lstrip("-")
            problems.append(f"{name}:{number}: a row of {home} in a file scored as {wanted}")
    return problems


def _test_set(row: AmtRow) -> tuple[str, str]:
    """Return a row's task and corpus, from its keys or from our ids (``mer/meld/test/dia0_utt3``); empty: unknown."""
    parts = str(row.get("channel") or "").split("/")
    task, corpus = parts[:2] if len(parts) > 3 else ("", "")  # a video's id may hold slashes of its own
    return str(row.get("task") or task), str(row.get("corpus") or corpus)


LABEL_KEYS: Final = ("labels", "label")
_TEXTS: Final = ("channel", "corpus", "task", "query", "utterance_id")


def wrong_prediction(row: Mapping[str, Any]) -> str:
    """Return what keeps a row from being a prediction, empty for a good one."""
    if not isinstance(row.get("response"), str):
        return "response: no reply of the model"
    gold, told = row.get("gold"), label_of(row)
    if told is None and not (isinstance(gold, dict) and "answer" in gold):
        return "labels: no right answer"
    if isinstance(gold, dict) and told is not None and gold.get("answer", told) != told:
        return f"labels: {told!r}, but its own gold says {gold['answer']!r}"
    return wrong_shape(row)


def wrong_record(row: Mapping[str, Any]) -> str:
    """Return what keeps a row from being a gold record: ours, or one of the authors' with its ``response``."""
    gold = row.get("gold")
    known = isinstance(gold, dict) and "answer" in gold
    if not known and not isinstance(row.get("response"), str):
        return "gold: no right answer"
    return wrong_shape(row)


def label_of(row: Mapping[str, Any]) -> str | None:
    """Return the right answer that ms-swift wrote beside the reply, None where it wrote none."""
    return next((row[key] for key in LABEL_KEYS if isinstance(row.get(key), str)), None)


def wrong_shape(row: Mapping[str, Any]) -> str:
    """Return what is of another kind than ms-swift's rows and ours have it, empty when nothing is."""
    for key in _TEXTS:
        if not isinstance(row.get(key) or "", str):
            return f"{key}: {row[key]!r} is no text"
    if not _is_messages(row.get("messages") or []):
        return "messages: not a list of objects with role and content"
    for key in ("videos", "images"):
        if not _is_media(row.get(key) or []):
            return f"{key}: neither a path nor a list of paths"
    gold = row.get("gold")
    if gold is not None and not isinstance(gold, dict):
        return "gold: not an object with answer"
    return ""


def wrong_gold(own: Mapping[str, Any], read: Mapping[str, Any]) -> str:
    """Return which key of a row's own gold is of another kind than in the task's ``read`` one, empty when none is.

    Where the task read nothing (no target, no list of answers), a number, a text or a list of texts may stand.
    """
    for key in sorted(own.keys() & {*read, "group"}):
        needed = key == "answer" or (isinstance(read.get(key), list) and key != "answers")
        if not _is_like(own[key], read.get(key)) and (needed or own[key] is not None):
            return f"gold.{key}: {own[key]!r} is not what the task keeps there"
    return ""


def _is_like(value: object, model: object) -> bool:
    texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
    if isinstance(model, list):
        return texts
    return texts or type(value) in (int, str) if model is None else type(value) is type(model)


def _is_messages(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and isinstance(one.get("content"), str) and isinstance(one.get("role"), str)
        for one in value
    )


def _is_media(value: object) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(isinstance(one, str) or (isinstance(one, dict) and _is_text(one.get("path"))) for one in items)


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)
