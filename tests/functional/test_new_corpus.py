"""A new corpus is one file in emoverse/corpora: this one has nine labels, of which Ekman knows five."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emoverse import corpora
from emoverse.amt.build_amt import build_amt
from emoverse.artifacts.tables import read_utterances
from emoverse.config import load_params
from emoverse.tasks import mer, task
from emoverse.validation.validate import validate
from tests.conftest import REPO
from tests.factories.clips import write_clip

LABELS = ("frustration", "excited", "worried", "contempt", "anger", "joy", "sadness", "neutral", "fear")
MODULE = f'''
"""Read a made-up corpus: one CSV with its labels as they are."""

import csv

from emoverse.corpora import Corpus, Quarantined, Reading, Utterance

LABELS = {LABELS!r}


def read(root):
    reading = Reading([], [])
    with (root / "labels.csv").open(encoding="utf-8", newline="") as handle:
        for line, row in enumerate(csv.DictReader(handle), start=2):
            name, source = f"nine/{{row['split']}}/{{row['clip']}}", f"labels.csv:{{line}}"
            if row["emotion"] not in LABELS:
                detail = f"{{row['emotion']!r}} is not a label"
                bad = Quarantined(row_id=name, source=source, column="emotion", reason="bad-label", detail=detail)
                reading.quarantined.append(bad)
                continue
            reading.utterances.append(Utterance(
                utterance_id=name, corpus="nine", split=row["split"], dialogue_id=row["clip"], position=0,
                speaker=None, text=row["text"], emotion=row["emotion"], polarity=None, sentiment=None,
                intensities=None, causes=(0,), episode=None, start=None, end=None,
                clip=f"clips/{{row['clip']}}.mp4", source=source,
            ))
    return reading


CORPUS = Corpus(name="nine", read=read, emotions=LABELS)
'''


@pytest.fixture
def nine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put the module beside the package's own, and a corpus of two clips a label and split on the disk."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package/nine.py").write_text(MODULE, "utf-8")
    monkeypatch.setattr(corpora, "__path__", [*corpora.__path__, str(tmp_path / "package")])
    corpora.corpora.cache_clear()
    root = tmp_path / "NINE"
    (root / "clips").mkdir(parents=True)
    lines = ["split,clip,text,emotion"]
    for number, (split, label) in enumerate(
        (split, label) for split in ("train", "validation", "test") for label in LABELS * 2
    ):
        lines.append(f"{split},{number},Here is sentence {number} of the corpus.,{label}")
    lines.append("train,99,A row of another label.,bliss")
    (root / "labels.csv").write_text("\n".join(lines) + "\n", "utf-8")
    yield root
    monkeypatch.undo()
    corpora.corpora.cache_clear()
    sys.modules.pop("emoverse.corpora.nine", None)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_corpus_of_nine_labels_is_validated_built_and_scored_in_its_own_labels(nine: Path, tmp_path: Path) -> None:
    params = load_params(REPO / "params.yaml")
    for number in range(54):
        write_clip(nine / f"clips/{number}.mp4")
    media = replace(params.media, size=32, frames=2)
    validate("nine", nine, tmp_path / "validated", media, replace(params.validation, max_quarantined=0.1))
    utterances = list(read_utterances(tmp_path / "validated/utterances.parquet"))
    assert Counter(one.emotion for one in utterances) == dict.fromkeys(LABELS, 6)
    section = replace(params.amt.stage1, corpora=("nine",), tasks={"mer": 1.0, "ecpe": 1.0})
    amt = replace(params.amt, stage1=section, stage2=section, modality_dropout=0.0)
    build_amt([tmp_path / "validated"], tmp_path / "amt", amt)
    test_rows = rows(tmp_path / "amt/test/nine-mer.jsonl")
    assert (
        "represents: frustration, excited, worried, contempt, anger, joy, sadness, neutral or fear."
        in (test_rows[0]["messages"][1]["content"])
    )
    assert Counter(row["messages"][2]["content"] for row in test_rows) == {
        f"{label.capitalize()}.": 2 for label in LABELS
    }
    scorer = task("mer").scorer([row["gold"] for row in test_rows])
    right = scorer.scores(scorer.counts([row["gold"]["answer"] for row in test_rows]).sum(0))
    assert right["accuracy"] == 1.0
    assert {f"f1/{label}" for label in LABELS} <= right.keys()
    pairs = rows(tmp_path / "amt/stage2.jsonl")
    shown = {row["messages"][2]["content"].split("_")[1].split(",")[0] for row in pairs if row["task"] == "ecpe"}
    assert shown == {"anger", "joy", "sadness", "fear"}
    left_out = json.loads((tmp_path / "amt/audit.json").read_text())["left_out"]
    assert left_out["stage2/nine/ecpe"]["label-not-taken"] == 8


def test_every_shipped_corpus_asks_for_the_labels_it_declares() -> None:
    for name, corpus in corpora.corpora().items():
        assert len(mer.labels(name)) == len(corpus.emotions)
        assert mer.answer(corpus.emotions[0], name) in mer.labels(name)
    assert mer.prompt("x", "mosei").endswith("anger, sad, surprise, disgust, happy, neutral or fear.")
    assert mer.prompt("x", "meld").endswith("anger, sadness, surprise, disgust, joy, neutral or fear.")
