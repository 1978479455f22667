"""Read a predictions file, ours or another project's, and pair its rows with gold records or with another file's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from emoverse.errors import RowErrors, UserError
from emoverse.evaluation.formats import read_rows
from emoverse.inference.test_sets import AmtRow
from emoverse.tasks import task as task_named

_TAGS: Final = re.compile(r"^(?:<(?:video|image)>)+")
_DIALOGUE: Final = re.compile(r"(dia\d+)_?utt\d+", re.ASCII)
_REMEDY: Final = "score the file as the model wrote it, against the test set it was made from"
_NumberedRows = Sequence[tuple[int, AmtRow]]
Key = tuple[str, ...]
_SUFFIXES: Final = frozenset(("mp4", "avi", "mkv", "mov", "webm", "png", "jpg", "jpeg", "wav"))
_INDISTINCT: Final = "give every row its id (channel), or its clip and question, as the model was given them"
LABEL_KEYS: Final = ("labels", "label")
_TEXTS: Final = ("channel", "corpus", "task", "query", "utterance_id")


@dataclass(frozen=True)
class Prediction:
    """One reply to one gold record, or (without a reply) the record itself.

    Attributes:
        place: ``file:row``.
        name: Its name in messages.
        channel: Our id of the row, if the file has it.
        shown: The clip and the question, which identify rows of other projects' files.
        reply: The model's text.
        gold: What scoring needs.
        group: The dialogue or video; records of one group are not independent.
        own: The gold that the row itself carried.
        corpus: Whose labels the gold has.
        labelled: Whether the row has a right answer of its own.
    """

    place: str
    name: str
    channel: str
    shown: tuple[str, str]
    reply: str
    gold: dict[str, Any]
    group: str
    own: dict[str, Any] = field(default_factory=dict)
    corpus: str = ""
    labelled: bool = True

    @property
    def label(self) -> str:
        """Return its place and name, for a message."""
        return self.place if self.name == self.place else f"{self.place}: {self.name}"

    @property
    def key(self) -> Key:
        """Return what identifies the row, () if nothing does: the same text may be said in many clips."""
        if self.channel:
            return (self.channel,)
        return self.shown if self.shown[0] else ()


def read_predictions(
    path: Path, task: str, *, gold: Path | None = None, corpus: str = "", name: str = "", format: str = "auto"
) -> list[Prediction]:
    """Read a predictions file, in its order.

    Args:
        path: A file of one of ``formats.FORMATS``. The reply is ``response``; the right answer ``labels`` (ms-swift 3
            and later) or ``label`` (2.x), or our ``gold``.
        task: The task's name.
        gold: The test set that the file must answer: AMT's JSON lines or the authors' published JSON.
        corpus: Whose labels they are, if the rows do not say.
        name: What messages call the file, by default its own name.
        format: The project that wrote the file, by default recognised.

    Raises:
        RowErrors: Rows are broken, repeated or of another test set, or, given ``gold``, missing or with another answer.
    """
    name = name or path.name
    rows, problems = _valid_rows(path, name, format, labelled=gold is None)
    corpus_used = corpus or _corpus(task, [row for _, row in rows])
    predictions = _predictions(rows, name, task, corpus_used, problems)
    problems += repeats(predictions) + (_misplaced(rows, task, name, corpus) or _foreign(predictions, task))
    if gold is not None and not problems:
        records = _predictions(_records(gold), gold.name, task, corpus_used, problems, is_gold=True)
        if not problems:
            predictions, problems = against_gold(predictions, records)
    if problems:
        raise RowErrors(problems, remedy=_REMEDY)
    if len({tuple(row.gold["answers"] or ()) for row in predictions}) > 1:
        raise UserError("its rows have different label sets", place=str(path), remedy="score each corpus by itself")
    if not predictions:
        raise UserError("it holds no prediction", place=str(path), remedy="give the file with a model's replies")
    return predictions


def _valid_rows(path: Path, name: str, format: str, *, labelled: bool) -> tuple[_NumberedRows, list[str]]:
    rows: list[tuple[int, AmtRow]] = []
    problems: list[str] = []
    for number, row, problem in read_rows(path, format):
        if problem := problem or wrong_prediction(row, labelled=labelled):
            problems.append(f"{name}:{number}: {problem}")
        else:
            rows.append((number, row))
    return rows, problems


def _predictions(
    rows: _NumberedRows, name: str, task: str, corpus: str, problems: list[str], *, is_gold: bool = False
) -> list[Prediction]:
    """Convert rows of the file ``name``; problems of the gold that they carry are added to ``problems``.

    A gold record's reply is its right answer: AMT's test rows have it in ``gold``, the authors' as ``response``.
    """
    gold_of = task_named(task).gold
    predictions = []
    for number, row in rows:
        place = f"{name}:{number}"
        reply, answer = ("", row.get("response")) if is_gold else (row["response"], label_of(row))
        own = dict(row.get("gold") or {})
        read = gold_of(str(own.get("answer", answer or "")), corpus=corpus, query=_query(row))
        if problem := wrong_gold(own, read):
            problems.append(f"{place}: {problem}")
        else:
            labelled = answer is not None or "answer" in own
            predictions.append(_prediction(place, row, reply, own, read, (corpus, labelled)))
    return predictions


def _prediction(place: str, row: AmtRow, reply: str, own: AmtRow, read: AmtRow, source: tuple[str, bool]) -> Prediction:
    query, media = _query(row), _media(row)
    if bool(own.get("answers")) != bool(read["answers"]):  # another task's gold, or one with fewer keys than ours
        own.pop("answers", None)
    channel = str(row.get("channel") or "")
    dialogue = _dialogue(media)
    group = str(own.get("group") or dialogue or media.rpartition("/")[0] or channel or place)
    shown = ("/".join(media.removeprefix("clip:").split("/")[-2:]).removesuffix(".mp4"), query)
    gold = {**read, **({"group": dialogue} if dialogue else {}), **own}
    return Prediction(place, channel or media or place, channel, shown, reply, gold, group, own, *source)


def _query(row: AmtRow) -> str:
    questions = [message["content"] for message in row.get("messages") or () if message["role"] == "user"]
    return _TAGS.sub("", questions[-1] if questions else row.get("query") or "")


def _media(row: AmtRow) -> str:
    for key in ("videos", "images"):
        shown = row.get(key) or []
        for item in shown if isinstance(shown, list) else [shown]:
            return str((item.get("path") if isinstance(item, dict) else item) or "")
    return ""


def _dialogue(media: str) -> str:
    """Return the dialogue that a clip's path names, empty if it names none."""
    folder, _, name = media.rpartition("/")
    match = _DIALOGUE.match(name)
    return f"{folder}/{match[1]}" if match else ""


def _corpus(task: str, rows: Sequence[AmtRow]) -> str:
    """Return the corpus that the rows name, else the task's guess from their right answers."""
    named = {corpus for row in rows if (corpus := _test_set(row)[1])}
    if len(named) == 1:
        return named.pop()
    return task_named(task).default_corpus([str(row[key]) for row in rows for key in LABEL_KEYS if key in row])


def _records(path: Path) -> _NumberedRows:
    """Return the records of a gold file; raise UserError for the first that is none."""
    records = []
    for number, row, problem in read_rows(path):
        if problem := problem or wrong_record(row):
            raise UserError(problem, place=f"{path}:{number}", remedy="give a test set as build-amt wrote it")
        records.append((number, row))
    return records


def _foreign(predictions: Sequence[Prediction], task: str) -> list[str]:
    """List answers that the task does not allow: another task's file, or another corpus's labels."""
    known = task_named(task)
    problems = []
    for row in predictions:
        answer, answers = row.gold["answer"], row.gold["answers"]
        if not row.labelled:
            continue
        if answers and answer not in answers:
            problems.append(f"{row.label}: labels: {answer!r} is not one of {', '.join(answers)}")
        elif not answers and not known.free_text and known.parse(str(answer), row.gold) is None:
            problems.append(f"{row.label}: labels: {answer!r} is no answer of task {task}")
    return problems


def _misplaced(rows: _NumberedRows, task: str, name: str, corpus: str) -> list[str]:
    """List rows of another task, or of another corpus than the one given, or than that of most rows."""
    sources = [(number, *_test_set(row)) for number, row in rows]
    corpora = Counter(own_corpus for _, _, own_corpus in sources if own_corpus)
    main = corpus or (corpora.most_common(1)[0][0] if corpora else "")
    problems = []
    for number, own_task, own_corpus in sources:
        if (own_task and own_task != task) or (own_corpus and own_corpus != main):
            source = f"{own_corpus or main}-{own_task or task}".lstrip("-")
            expected = f"{main}-{task}".lstrip("-")
            problems.append(f"{name}:{number}: a row of {source} in a file scored as {expected}")
    return problems


def _test_set(row: AmtRow) -> tuple[str, str]:
    """Return a row's task and corpus, from its keys or from our ids (``mer/meld/test/dia0_utt3``); empty: unknown."""
    parts = str(row.get("channel") or "").split("/")
    task, corpus = parts[:2] if len(parts) > 3 else ("", "")  # a video's id may contain slashes
    return str(row.get("task") or task), str(row.get("corpus") or corpus)


def wrong_prediction(row: Mapping[str, Any], *, labelled: bool = True) -> str:
    """Return the problem of a row that is no prediction, empty for a valid one.

    ``labelled``: whether it needs a right answer, as no test set is given.
    """
    if not isinstance(row.get("response"), str):
        return "response: no reply of the model"
    gold, label = row.get("gold"), label_of(row)
    if labelled and label is None and not (isinstance(gold, dict) and "answer" in gold):
        return "labels: no right answer; add it, or give the test set with --gold"
    if isinstance(gold, dict) and label is not None and gold.get("answer", label) != label:
        return f"labels: {label!r}, but its own gold says {gold['answer']!r}"
    return wrong_shape(row)


def wrong_record(row: Mapping[str, Any]) -> str:
    """Return the problem of a row that is no gold record: ours, or one of the authors' with its ``response``."""
    gold = row.get("gold")
    if not (isinstance(gold, dict) and "answer" in gold) and not isinstance(row.get("response"), str):
        return "gold: no right answer"
    return wrong_shape(row)


def label_of(row: Mapping[str, Any]) -> str | None:
    """Return the right answer beside the reply, None if there is none."""
    return next((row[key] for key in LABEL_KEYS if isinstance(row.get(key), str)), None)


def wrong_shape(row: Mapping[str, Any]) -> str:
    """Return which key has another type than in ms-swift's rows and ours, empty if none has."""
    for key in _TEXTS:
        if not isinstance(row.get(key) or "", str):
            return f"{key}: {row[key]!r} is not a string"
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
    """Return which key of a row's own gold has another type than in the task's ``read`` one, empty if none has.

    A key that the task could not read (no target, no list of answers) may be a number, a string or a list of strings.
    """
    for key in sorted(own.keys() & {*read, "group"}):
        needed = key == "answer" or (isinstance(read.get(key), list) and key != "answers")
        if not _is_like(own[key], read.get(key)) and (needed or own[key] is not None):
            return f"gold.{key}: {own[key]!r} has not the type that the task expects"
    return ""


def _is_like(value: object, model: object) -> bool:
    texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if isinstance(model, list):
        return texts
    return texts or type(value) in (int, str) if model is None else type(value) is type(model)


def _is_messages(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("content"), str) and isinstance(item.get("role"), str)
        for item in value
    )


def _is_media(value: object) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, str) or (isinstance(item, dict) and _is_text(item.get("path"))) for item in items)


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def repeats(rows: Sequence[Prediction]) -> list[str]:
    """List rows that answer what an earlier row answered."""
    first: dict[Key, str] = {}
    problems = []
    for row in rows:
        if row.key and row.key in first:
            problems.append(f"{row.label}: answered at {first[row.key]} already")
        first.setdefault(row.key, row.place)
    return problems


def against_gold(rows: Sequence[Prediction], records: Sequence[Prediction]) -> tuple[list[Prediction], list[str]]:
    """Pair predictions with gold records; the record's gold counts, and a different one in the file is a problem.

    Raises:
        RowErrors: Rows of either file cannot be distinguished.
    """
    predicted, known = _tables(rows, records)
    problems = [f"{row.label}: not a record of the gold file" for key, row in predicted.items() if key not in known]
    problems += [f"{record.label}: has no prediction" for key, record in known.items() if key not in predicted]
    pairs = [(row, known[key]) for key, row in predicted.items() if key in known]
    problems += [problem for row, record in pairs for problem in _changed(row, record)]
    return [replace(row, gold=record.gold, group=record.group) for row, record in pairs], problems


def _changed(row: Prediction, record: Prediction) -> list[str]:
    """List how a row's own gold differs from the record's: its answer, and the other keys that it carries."""
    if row.labelled and row.gold["answer"] != record.gold["answer"]:
        own, right = repr(row.gold["answer"]), repr(record.gold["answer"])
        return [f"{row.label}: the answer is {right} ({record.place}), the file says {own}"]
    return [
        f"{row.label}: gold.{key} is {record.own[key]!r} ({record.place}), the file says {row.own[key]!r}"
        for key in sorted(row.own.keys() & record.own.keys())
        if row.own[key] != record.own[key]
    ]


def paired(first: Sequence[Prediction], second: Sequence[Prediction]) -> tuple[list[Prediction], list[str]]:
    """Return the rows of ``second`` in the order of ``first``, and the problems.

    Rows of files without ids, clips or questions are paired line by line if their right answers agree.
    """
    problems: list[str] = []
    if len(first) == len(second) and not all(row.key for row in (*first, *second)):
        pairs = list(zip(first, second, strict=True))
    else:
        one, other = _tables(first, second)
        unpaired = [row for key, row in one.items() if key not in other]
        unpaired += [row for key, row in other.items() if key not in one]
        problems += [f"{row.label}: not in the other file" for row in unpaired]
        pairs = [(row, other[key]) for key, row in one.items() if key in other]
    problems += [f"{a.label}: another answer at {b.place}" for a, b in pairs if a.gold["answer"] != b.gold["answer"]]
    return [row for _, row in pairs], problems


def _tables(
    first: Sequence[Prediction], second: Sequence[Prediction]
) -> tuple[Mapping[Key, Prediction], Mapping[Key, Prediction]]:
    """Key both files the same way: by our ids if all rows have one, else by clip and question, or by clip alone."""
    if all(row.channel for row in (*first, *second)):
        return _keyed(first, lambda row: (row.channel,)), _keyed(second, lambda row: (row.channel,))
    if all(row.shown[0] for row in (*first, *second)) and not all(row.shown[1] for row in (*first, *second)):
        return _keyed(first, _clip_key(second)), _keyed(second, _clip_key(second))
    return _keyed(first, lambda row: row.shown), _keyed(second, lambda row: row.shown)


def _clip_key(records: Sequence[Prediction]) -> Callable[[Prediction], Key]:
    """Return what finds the record that shows a row's clip, whatever part of the clip's path a file gives.

    The key is the record's place, or the clip itself if no record, or more than one, has its name.
    """
    places: dict[str, set[str]] = {}
    for record in records:
        for name in names_of(record.shown[0]):
            places.setdefault(name, set()).add(record.place)

    def key(row: Prediction) -> Key:
        candidates = (places.get(name, set()) for name in reversed(names_of(row.shown[0])))
        return next(((next(iter(place)),) for place in candidates if len(place) == 1), row.shown)

    return key


def names_of(clip: str) -> Sequence[str]:
    """Return the names that files give a clip: ``a/dia0_utt1.mp4`` -> ``dia0_utt1``, ``a_dia0_utt1``."""
    *folders, last = clip.replace("$_$", "/").split("/")
    stem, _, suffix = last.rpartition(".")
    stem = stem if suffix in _SUFFIXES else last
    return (stem, f"{folders[-1]}_{stem}") if folders else (stem,)


def _keyed(rows: Sequence[Prediction], key_of: Callable[[Prediction], Key]) -> Mapping[Key, Prediction]:
    table: dict[Key, Prediction] = {}
    problems = []
    for row in rows:
        key = key_of(row)
        if key in table:
            problems.append(f"{row.label}: has the same key as {table[key].place}")
        table[key] = row
    if problems:
        raise RowErrors(problems, remedy=_INDISTINCT)
    return table
