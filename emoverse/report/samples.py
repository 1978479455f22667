"""Choose sample clips: the most confident mistakes and some right replies, with the frames that the model saw."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from PIL import Image

from emoverse.media.frames import FrameStore
from emoverse.report.pictures import Picture, picture
from emoverse.tasks import rank, tasks
from emoverse.tasks import task as task_named

PER_TEST: Final = 6  # clips per test set, half of them mistakes if there are that many
SIDE: Final = 112  # pixels, of a frame on the page
_QUOTED: Final = re.compile(r"The person says: (['\"])(.*)\1 <[a-z]+> ", re.DOTALL)
Verdict = Literal["right", "wrong", "unparsable"]


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
