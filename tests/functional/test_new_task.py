"""A new task is one file in emoverse/tasks: everything else finds it there."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import emoverse.tasks
from emoverse.amt.build_amt import build_amt
from emoverse.cli.__init__ import main
from emoverse.config import load_params
from emoverse.report.scores import headlines
from emoverse.tasks import rank, task, tasks
from tests.conftest import REPO
from tests.factories.amt import corpus, validated
from tests.factories.answering import write_rows

FILE = '''
"""Ask who speaks."""

from emoverse.tasks import Question, Skipped
from emoverse.tasks import LabelScorer, LabelTask

_ANSWERS = ("Ann.", "Bob.", "Cy.")


class _Speaker(LabelTask):
    name = "who"
    title = "speaker recognition"
    headline = "accuracy"
    rank = 7
    modality_dropout = True

    def question(self, context):
        if context.utterance.speaker is None:
            return Skipped("no-speaker")
        text = f"The person says: '{context.transcript(context.utterance)}' <who> Who is it: Ann, Bob or Cy?"
        answer = f"{context.utterance.speaker}."
        return Question(text, answer, self.gold(answer, corpus=context.utterance.corpus))

    def gold(self, answer, *, corpus, query=""):
        return {"answer": answer, "answers": list(_ANSWERS)}

    def scorer(self, golds):
        return LabelScorer(golds)


TASK = _Speaker()
'''


@pytest.fixture
def new_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Put the file into a folder that the package of tasks also looks in."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more/who.py").write_text(FILE, "utf-8")
    monkeypatch.setattr(emoverse.tasks, "__path__", [*emoverse.tasks.__path__, str(tmp_path / "more")])
    clear()
    yield "who"
    sys.modules.pop("emoverse.tasks.who", None)
    clear()


def clear() -> None:
    importlib.invalidate_caches()
    for cached in (tasks, emoverse.tasks._groups, emoverse.tasks._all):
        cached.cache_clear()


def test_a_new_task_is_mixed_tested_scored_and_reported(
    new_task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(tasks()) == ["ecpe", "eri", "fer", "mer", "msa", "who"]
    params = load_params(REPO / "params.yaml").amt
    stage = replace(params.stage1, tasks={"who": 1.0, "mer": 1.0}, corpora=("meld",), caps={})
    params = replace(params, stage1=stage, stage2=stage, modality_dropout=0.5)
    amt = tmp_path / "amt"
    build_amt([validated(tmp_path / "meld", corpus("meld"))], amt, params)
    trained = [json.loads(line) for line in (amt / "stage2.jsonl").read_text("utf-8").splitlines()]
    assert {row["task"] for row in trained} == {"who", "mer"}
    assert any(row["channel"].startswith("who/") and row["channel"].endswith("~mute") for row in trained)
    assert json.loads((amt / "baselines.json").read_text("utf-8"))["meld-who"]["headline"] == "accuracy"

    test = amt / "test/meld-who.jsonl"
    rows = [json.loads(line) for line in test.read_text("utf-8").splitlines()]
    replies = [
        f"It isn't Cy, it is {row['gold']['answer']}" if row["gold"]["answer"] != "Cy." else "cy" for row in rows
    ]
    predictions = write_rows(
        tmp_path / "p.jsonl",
        [{"channel": row["channel"], "response": reply} for row, reply in zip(rows, replies, strict=True)],
    )
    assert main(["score", str(predictions), "--task", "who", "--gold", str(test), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["accuracy"], found["n"], found["unparsable"]) == (1.0, len(rows), 0)

    numbers = {"n": 5, "unparsable": 0, "accuracy": 0.5, "low": 0.4, "high": 0.6, "baseline": 0.3}
    (tmp_path / "metrics.json").write_text(json.dumps({"who": numbers, "mer": numbers, "tests": {}}), "utf-8")
    assert [head.title for head in headlines(tmp_path)] == ["emotion recognition", "speaker recognition"]
    assert rank("meld-who") > rank("ecf-ecpe_semeval")
    assert task("who").flaws("who knows", rows[0]["gold"]) == {"unparsable"}
