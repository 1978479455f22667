"""`emoverse score` on files made from the real test sets gives the scores that were measured with others' scorers."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from emoverse.cli.__init__ import main
from emoverse.corpora import Utterance
from emoverse.tasks import Context, Question, task
from tests.factories.answering import write_rows

_TARGET = re.compile(r"\nTarget utterance:(\d+)_([a-z]+)\.")


def score(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["score", *map(str, words), "--bootstrap", "200", "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.fixture
def ecf_test(shared_data: Path, tmp_path: Path) -> Path:
    out, folder = tmp_path / "ecf.json", shared_data / "ecf"
    words = ["published", "ecf", "--annotations", folder / "Subtask_2_test.json", "--split", "test", "--out", out]
    assert main([str(word) for word in words]) == 0
    return out


def causes(record: dict[str, Any], predictor: str) -> str:
    if predictor == "gold":
        return str(record["response"])
    found = _TARGET.search(record["query"])
    assert found
    target = int(found[1])
    named = [target - 1, target] if predictor == "previous + target" and target > 1 else [target]
    return ";".join(f"{target}_{found[2]},{cause}" for cause in named)


@pytest.mark.parametrize(
    ("predictor", "scores"),
    [
        ("gold", (1.0, 1.0, 1.0, 1.0)),
        ("target itself", (0.5784, 0.5769, 0.5683, 0.5672)),
        ("previous + target", (0.6650, 0.6645, 0.6501, 0.6498)),
    ],
)
@pytest.mark.parametrize("key", ["labels", "label"])
def test_cause_pairs_of_trivial_predictors(
    ecf_test: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    predictor: str,
    scores: tuple[float, ...],
    key: str,
) -> None:
    rows = [
        {"query": one["query"], "videos": one["videos"], "response": causes(one, predictor), key: one["response"]}
        for one in json.loads(ecf_test.read_text("utf-8"))
    ]
    found = score(capsys, "--task", "ecpe", write_rows(tmp_path / "p.jsonl", rows), "--gold", ecf_test)
    names = ("authors_f1", "authors_weighted_f1", "official_micro_f1", "official_weighted_f1")
    assert tuple(round(found[name], 4) for name in names) == scores
    assert (found["n"], found["scored"], found["unparsable"]) == (1821, 1746, 0)
    assert round(found["baseline"], 4) == 0.6650
    theirs = {one["metric"]: one["comparable"] for one in found["published"]}
    assert theirs == {"authors_f1": True, "authors_weighted_f1": True, "official_weighted_f1": False}


def test_always_neutral_on_meld(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = shared_data / "amt" / "meld_test_data.json"
    records = json.loads(gold.read_text("utf-8"))
    rows = [{**{k: r[k] for k in ("query", "videos")}, "response": "Neutral.", "label": r["response"]} for r in records]
    found = score(capsys, "--task", "mer", write_rows(tmp_path / "p.jsonl", rows), "--gold", gold)
    assert (found["n"], found["groups"]) == (2610, 280)
    assert (round(found["accuracy"], 4), round(found["weighted_f1"], 4)) == (0.4812, 0.3127)
    assert found["baseline"] == found["accuracy"]


def sentiments(path: Path) -> list[tuple[str, str, float]]:
    with path.open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["mode"] == "test"]
    return [(row["video_id"], row["clip_id"], float(row["label"])) for row in rows]


def question(video: str, clip: str, value: float) -> Question:
    name = f"mosei/test/{video}/{clip}"
    blank: dict[str, Any] = dict.fromkeys(("speaker", "emotion", "polarity", "intensities", "causes", "episode"))
    one = Utterance(
        utterance_id=name, corpus="mosei", split="test", dialogue_id=video, position=int(clip), text="...",
        sentiment=value, start=None, end=None, clip=f"{name}.mp4", source="label.csv", **blank,
    )  # fmt: skip
    question = task("msa").question(Context(utterance=one, dialogue=[one]))
    assert isinstance(question, Question)
    return question


def test_always_positive_on_mosei_both_ways(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = sentiments(shared_data / "mosei" / "sentiment_labels.csv")
    rows = [
        {
            "channel": f"msa/mosei/test/{video}/{clip}",
            "response": "Positive.",
            "gold": question(video, clip, value).gold,
        }
        for video, clip, value in known
    ]
    found = score(capsys, "--task", "msa", write_rows(tmp_path / "p.jsonl", rows))
    expected = {
        "accuracy/non_neg": 0.7102, "weighted_f1/non_neg": 0.5899,
        "accuracy/pos_neg": 0.6285, "weighted_f1/pos_neg": 0.4851,
    }  # fmt: skip
    assert (found["n"], found["scored"]) == (4659, 3634)
    assert {name: round(found[name], 4) for name in expected} == expected


@pytest.mark.parametrize(
    ("zeros", "n", "accuracy", "weighted"), [(True, 4659, 0.7102, 0.5899), (False, 3634, 0.6285, 0.4851)]
)
def test_always_positive_on_the_authors_two_sentiment_files(
    shared_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    zeros: bool,
    n: int,
    accuracy: float,
    weighted: float,
) -> None:
    known = sentiments(shared_data / "mosei" / "sentiment_labels.csv")
    rows = [
        {"images": [f"{video}/{clip}.png"], "response": "Positive.", "label": "Negative." if value < 0 else "Positive."}
        for video, clip, value in known
        if zeros or value
    ]
    found = score(capsys, "--task", "msa", write_rows(tmp_path / "p.jsonl", rows))
    assert (found["n"], found["groups"]) == (n, len({video for video, _, value in known if zeros or value}))
    assert (round(found["accuracy"], 4), round(found["weighted_f1"], 4)) == (accuracy, weighted)
