"""Read a predictions file, ours, ms-swift's of any version or somebody else's, and hold it against its gold records."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from emoverse.errors import RowErrors, UserError
from emoverse.evaluation.matching import Prediction, against_gold, repeats
from emoverse.inference.testsets import Row, read_jsonl
from emoverse.tasks import task as task_named

_TAGS: Final = re.compile(r"^(?:<(?:video|image)>)+")
_DIALOGUE: Final = re.compile(r"(dia\d+)_?utt\d+", re.ASCII)
_LABEL_KEYS: Final = ("labels", "label")
_FREE: Final = ("eri",)  # tasks whose right answer is free text, which its own parser may not read
_REMEDY: Final = "score the file as the model wrote it, against the test set it was made from"


def read_predictions(path: Path, task: str, *, gold: Path | None = None, corpus: str = "") -> list[Prediction]:
    """Read a JSON-lines file of predictions, in its order.

    The reply is ``response``; the right answer ``labels`` (ms-swift 3 and later) or ``label`` (2.x), or our ``gold``.
    ``gold`` is the test set the file must answer: AMT's JSON lines or the authors' published JSON. Raises RowErrors
    listing every broken, repeated or foreign row and, given ``gold``, every missing one and every changed gold.
    """
    rows, problems = _good_rows(path)
    where = corpus or _corpus(task, [row for _, row in rows])
    found = [_prediction(f"{path.name}:{number}", row, task, where) for number, row in rows]
    problems += repeats(found) + (_strangers(rows, task, path.name) or _foreign(found, task))
    if gold is not None and not problems:
        records = [_record(f"{gold.name}:{number}", row, task, where) for number, row in _records(gold)]
        found, more = against_gold(found, records)
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
    own = dict(given) if isinstance(given, dict) else {}
    read = task_named(task).gold(str(own.get("answer", answer)), corpus=corpus, query=query)
    if bool(own.get("answers")) != bool(read["answers"]):  # another task's gold, or one that says less than ours
        own.pop("answers", None)
    gold = {**read, **own}
    channel = str(row.get("channel") or "")
    group = str(gold.get("group") or _group(media) or channel or place)
    shown = ("/".join(media.removeprefix("clip:").split("/")[-2:]).removesuffix(".mp4"), query)
    return Prediction(place, channel or media or place, channel, shown, reply, gold, group, own)


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
    return "mosei" if happy or task == "msa" else "ecf" if task.startswith("ecpe") else "meld"


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


def _foreign(found: Sequence[Prediction], task: str) -> list[str]:
    """List answers that the task does not allow: another task's file, or another corpus's labels."""
    problems = []
    for one in found:
        answer, answers = one.gold["answer"], one.gold["answers"]
        if answers and answer not in answers:
            problems.append(f"{one.label}: labels: {answer!r} is not one of {', '.join(answers)}")
        elif not answers and task not in _FREE and task_named(task).parse(str(answer), one.gold) is None:
            problems.append(f"{one.label}: labels: {answer!r} is no answer of task {task}")
    return problems


def _strangers(rows: Sequence[tuple[int, Row]], task: str, name: str) -> list[str]:
    """List rows that say they are of another task, or of another corpus than most rows of the file."""
    told = [(number, *_test_set(row)) for number, row in rows]
    corpora = Counter(corpus for _, _, corpus in told if corpus)
    main = corpora.most_common(1)[0][0] if corpora else ""
    problems = []
    for number, its_task, corpus in told:
        if (its_task and its_task != task) or (corpus and corpus != main):
            home = f"{corpus or main}-{its_task or task}".lstrip("-")
            wanted = f"{main}-{task}".lstrip("-")
            problems.append(f"{name}:{number}: a row of {home} in a file scored as {wanted}")
    return problems


def _test_set(row: Row) -> tuple[str, str]:
    """Return a row's task and corpus, from its keys or from our ids (``mer/meld/test/dia0_utt3``); empty: unknown."""
    parts = str(row.get("channel") or "").split("/")
    task, corpus = parts[:2] if len(parts) > 3 else ("", "")  # a video's id may hold slashes of its own
    return str(row.get("task") or task), str(row.get("corpus") or corpus)
