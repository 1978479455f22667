"""Choose sample clips, with the frames that the model saw, and lay out a picture of each question.

The samples are the most confident mistakes and some right replies. A picture shows a face's units, a reason beside its
clues, or causes in a dialogue; the template draws it. Only what the test row says is used: its question, gold answer
and reply.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from PIL import Image

from emoverse.media.frames import FrameStore
from emoverse.tasks import fer, rank, tasks
from emoverse.tasks import task as task_named
from emoverse.tasks.ecpe import parse_pairs

PER_TEST: Final = 6  # clips per test set, half of them mistakes if there are that many
SIDE: Final = 112  # pixels, of a frame on the page
_QUOTED: Final = re.compile(r"The person says: (['\"])(.*)\1 <[a-z]+> ", re.DOTALL)
Verdict = Literal["right", "wrong", "unparsable"]
Mark = Literal["right", "missed", "wrong"]

ROW_HIGH: Final = 44
"""Height of a line of dialogue on the page, in pixels; page.css has the same."""
GUTTER: Final = 64
"""Width of the space beside the lines in which arrows run, in pixels."""
MAX_LINES: Final = 14
"""Dialogues with more lines are shown in part: the lines that arrows touch, and their neighbours."""
_LINE: Final = re.compile(r"(\d+)(?:_([a-z]+))?\. ([^:\n]*): (.*)")
_CONVERSATION: Final = re.compile(r"Input conversation:(.*?)\nCandidate utterances:", re.DOTALL)
_TARGET: Final = re.compile(r"\nTarget utterance:(\d+)")

# Where each unit is on the drawn face: (x, y) of its middle and radii, in units of the drawing (100 x 120).
REGIONS: Final[Mapping[str, tuple[tuple[float, float, float, float], ...]]] = {
    "AU01": ((41, 38, 6, 5), (59, 38, 6, 5)),
    "AU02": ((28, 39, 7, 5), (72, 39, 7, 5)),
    "AU04": ((50, 42, 7, 6),),
    "AU05": ((34, 47, 9, 3.5), (66, 47, 9, 3.5)),
    "AU06": ((28, 64, 9, 6), (72, 64, 9, 6)),
    "AU07": ((34, 55, 9, 3.5), (66, 55, 9, 3.5)),
    "AU09": ((50, 58, 6, 8),),
    "AU10": ((50, 78, 11, 4),),
    "AU12": ((33, 82, 6, 6), (67, 82, 6, 6)),
    "AU14": ((27, 80, 5, 5), (73, 80, 5, 5)),
    "AU15": ((34, 90, 5, 5), (66, 90, 5, 5)),
    "AU17": ((50, 103, 9, 5),),
    "AU20": ((30, 86, 7, 4), (70, 86, 7, 4)),
    "AU23": ((50, 86, 13, 4),),
    "AU25": ((50, 86, 9, 5),),
    "AU26": ((50, 95, 13, 8),),
    "AU45": ((34, 51, 9, 5), (66, 51, 9, 5)),
}


@dataclass(frozen=True)
class Sample:
    """One test record; ``frames`` are data URIs, ``likely`` the answers by descending probability.

    ``title`` is the task's, ``text`` the transcript where the question quotes one. ``confidence`` is the probability of
    the reply, None where it was generated.
    """

    test: str
    task: str
    title: str
    text: str
    channel: str
    frames: list[str]
    question: str
    gold: str
    reply: str
    verdict: Verdict
    controls: dict[str, str]
    likely: list[tuple[str, float]]
    confidence: float | None
    picture: Picture | None = None


def choose(scores: Path, amt: Path, validated: Sequence[Path]) -> list[Sample]:
    """Return the samples of all test sets, in an order that depends on the content alone."""
    store = FrameStore(validated)
    samples: list[Sample] = []
    for path in sorted((scores / "predictions").glob("*.jsonl"), key=lambda path: rank(path.stem)):
        picked = _picked(path)
        questions = {row["channel"]: row for row in _rows(amt / "test" / path.name) if row["channel"] in picked}
        samples += [_sample(path.stem, picked[name], questions[name], store) for name in picked]
    return samples


def _picked(path: Path) -> dict[str, dict[str, Any]]:
    """Pick the most confident mistakes, in that order, and right replies.

    Right replies, and mistakes of equal confidence, are ordered by a digest of the id: arbitrary like a random draw,
    but independent of the order of the file.
    """
    task = path.stem.rpartition("-")[2]
    right: list[dict[str, Any]] = []
    wrong: list[dict[str, Any]] = []
    for row in _rows(path):
        (right if _verdict(task, row) == "right" else wrong).append(row)
    right.sort(key=_draw)
    wrong.sort(key=lambda row: (-(_confidence(row) or 0.0), _draw(row)))
    half = PER_TEST // 2
    wrong_shown = wrong[: max(half, PER_TEST - len(right))]
    return {row["channel"]: row for row in [*wrong_shown, *right[: PER_TEST - len(wrong_shown)]]}


def _draw(row: dict[str, Any]) -> bytes:
    return hashlib.sha256(row["channel"].encode()).digest()


def _confidence(row: dict[str, Any]) -> float | None:
    share = row.get("probabilities", {}).get(row["response"])
    return None if share is None else float(share)


def _verdict(task: str, row: dict[str, Any]) -> Verdict:
    parse, gold = task_named(task).parse, row["gold"]
    answer = parse(row["response"], gold)
    if answer is None:
        return "unparsable"
    return "right" if answer == parse(str(gold["answer"]), gold) else "wrong"


def _sample(test: str, row: dict[str, Any], question: dict[str, Any], store: FrameStore) -> Sample:
    task = test.rpartition("-")[2]
    likely = sorted(row.get("probabilities", {}).items(), key=lambda pair: (-pair[1], pair[0]))
    user = next(message["content"] for message in question["messages"] if message["role"] == "user")
    reference = next(iter([*question["videos"], *question["images"]]))
    return Sample(
        test=test,
        task=task,
        title=task_named(task).title,
        text=match[2] if (match := _QUOTED.search(user)) else "",
        channel=str(row["channel"]),
        frames=[_data_uri(frame) for frame in store[reference]],
        question=user,
        gold=str(row["labels"]),
        reply=str(row["response"]),
        verdict=_verdict(task, row),
        controls={str(k): str(v) for k, v in row.get("controls", {}).items()},
        likely=[(str(k), float(v)) for k, v in likely[:3]],
        confidence=_confidence(row),
        picture=picture(task, user, row["gold"], str(row["response"])),
    )


def showcase(samples: Sequence[Sample]) -> list[Sample]:
    """Return one sample of each task, a right reply where there is one, for the top of the page.

    Of the right ones the picture with most to see: several units, clues or lines. A task's other conditions are left
    to the clips further down.
    """
    best: dict[str, Sample] = {}
    for sample in samples:
        if sample.task not in tasks():
            continue
        if sample.task not in best or _visible_items(sample) > _visible_items(best[sample.task]):
            best[sample.task] = sample
    return [best[name] for name in sorted(best, key=rank)]


def _visible_items(sample: Sample) -> tuple[bool, int]:
    drawn = sample.picture
    far = (
        sum(abs(arrow.cause - turn.number) for arrow in drawn.arrows for turn in drawn.turns if turn.target)
        if drawn
        else 0
    )
    return sample.verdict == "right", far + len(drawn.units) + len(drawn.clues) if drawn else 0


def _data_uri(frame: Any) -> str:
    picture = Image.fromarray(frame)
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as handle:
        for line in handle:
            yield json.loads(line)


@dataclass(frozen=True)
class Unit:
    """One action unit's phrase, whether it was named rightly, and where it is: (x, y, rx, ry) of ellipses."""

    phrase: str
    mark: Mark
    regions: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Clue:
    """One observation that the annotated reason builds on, and whether the reply names it."""

    text: str
    mark: Mark


@dataclass(frozen=True)
class Turn:
    """One line of a dialogue; ``row`` is its place in the picture."""

    number: int
    emotion: str
    speaker: str
    text: str
    target: bool
    row: int


@dataclass(frozen=True)
class Arrow:
    """An arrow from a cause to the target: an SVG path, and a place for its head; ``mark`` says whose it is."""

    path: str
    head: str
    mark: Mark
    cause: int


@dataclass(frozen=True)
class Picture:
    """What is drawn about one question; ``kind`` says which of the fields are filled."""

    kind: Literal["units", "reason", "dialogue"]
    units: tuple[Unit, ...] = ()
    parts: tuple[tuple[str, bool], ...] = ()
    clues: tuple[Clue, ...] = ()
    turns: tuple[Turn, ...] = ()
    arrows: tuple[Arrow, ...] = ()
    height: int = 0
    hidden: int = 0


def picture(task: str, question: str, gold: Mapping[str, Any], reply: str) -> Picture | None:
    """Return the picture of a question, None for a task without one or a question that does not look like its own.

    Args:
        task: Name of the task.
        question: The question as the model was asked it.
        gold: The gold record.
        reply: The model's reply.
    """
    if task == "fer":
        return _face(str(gold["answer"]), reply)
    if task == "eri" and gold.get("clues"):
        return _reason([str(clue) for clue in gold["clues"]], reply)
    if task in ("ecpe", "ecpe_semeval"):
        return _dialogue(question, str(gold["answer"] or ""), reply)
    return None


def _face(answer: str, reply: str) -> Picture:
    """Mark each phrase of the annotation and of the reply; a phrase that no unit has has no region."""
    right, named = fer.parse_phrases(answer), fer.parse_phrases(reply)
    table = fer.tables()["phrases"]
    unit_of = {phrase: unit for unit, phrase in table.items()}
    order = {phrase: place for place, phrase in enumerate((*table.values(), fer.tables()["still"]))}
    shown = sorted(right | named, key=lambda phrase: (order.get(phrase, len(order)), phrase))
    units = (Unit(phrase, _mark(phrase in right, phrase in named), _regions(unit_of.get(phrase))) for phrase in shown)
    return Picture("units", units=tuple(units))


def _regions(unit: str | None) -> tuple[tuple[float, float, float, float], ...]:
    return REGIONS.get(unit, ()) if unit else ()


def _mark(annotated: bool, replied: bool) -> Mark:
    return "wrong" if not annotated else "right" if replied else "missed"


def _reason(clues: Sequence[str], reply: str) -> Picture:
    """Cut the reply into parts that are a clue and parts that are not."""
    lower = reply.lower()
    marks = tuple(Clue(clue, "right" if clue.lower() in lower else "missed") for clue in clues)
    pattern = "|".join(re.escape(clue) for clue in sorted(clues, key=len, reverse=True) if clue)
    pieces = re.split(f"({pattern})", reply, flags=re.IGNORECASE) if pattern else [reply]
    parts = tuple((piece, place % 2 == 1) for place, piece in enumerate(pieces) if piece)
    return Picture("reason", parts=parts, clues=marks)


def _dialogue(question: str, answer: str, reply: str) -> Picture | None:
    """Draw the target's causes: annotated and named, annotated only, named only."""
    conversation, target_match = _CONVERSATION.search(question), _TARGET.search(question)
    if conversation is None or target_match is None:
        return None
    lines = [match.groups() for match in _LINE.finditer(conversation[1])]
    target = int(target_match[1])
    rows_of = {int(number): place for place, (number, *_) in enumerate(lines)}
    if target not in rows_of:
        return None
    gold = {cause for _, _, cause in parse_pairs(answer) or ()}
    named = {cause for number, _, cause in parse_pairs(reply) or () if number == target}
    causes = sorted((gold | named) & rows_of.keys())
    kept = _kept(len(lines), [rows_of[number] for number in (target, *causes)])
    row = {place: i for i, place in enumerate(kept)}
    turns = tuple(
        Turn(int(number), emotion or "", speaker, text, int(number) == target, row[place])
        for place, (number, emotion, speaker, text) in enumerate(lines)
        if place in row
    )
    at = row[rows_of[target]]
    arrows = tuple(
        _arrow(row[rows_of[cause]], at, cause, _mark(cause in gold, cause in named), lane)
        for lane, cause in enumerate(causes)
    )
    return Picture("dialogue", turns=turns, arrows=arrows, height=ROW_HIGH * len(kept), hidden=len(lines) - len(kept))


def _kept(count: int, touched: Iterable[int]) -> list[int]:
    """Return which of ``count`` lines are shown: all of a short dialogue, else those touched and their neighbours."""
    if count <= MAX_LINES:
        return list(range(count))
    near = {place + step for place in touched for step in (-1, 0, 1)}
    return sorted(place for place in near if 0 <= place < count)


def _arrow(start: int, end: int, cause: int, mark: Mark, lane: int) -> Arrow:
    """Bow to the left from the middle of row ``start`` to that of row ``end``, a loop where they are the same."""
    y1, y2 = (start + 0.5) * ROW_HIGH, (end + 0.5) * ROW_HIGH
    if start == end:
        top, bottom = y1 - 7, y1 + 7
        path = f"M{GUTTER - 4},{top:g} C{GUTTER - 30},{top - 8:g} {GUTTER - 30},{bottom + 8:g} {GUTTER - 8},{bottom:g}"
        return Arrow(path, _head(bottom), mark, cause)
    depth = min(GUTTER - 8, 20 + 9 * abs(end - start) + 4 * lane)
    y2 += -4 if start < end else 4
    x = GUTTER - depth
    return Arrow(f"M{GUTTER - 4},{y1:g} C{x},{y1:g} {x},{y2:g} {GUTTER - 8},{y2:g}", _head(y2), mark, cause)


def _head(y: float) -> str:
    """Return the points of an arrow's head at height ``y``."""
    return f"{GUTTER - 10},{y - 4.5:g} {GUTTER - 1},{y:g} {GUTTER - 10},{y + 4.5:g}"
