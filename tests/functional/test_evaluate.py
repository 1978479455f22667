"""Evaluate a tiny model on made-up test sets, as the step and as the verb."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from emoverse.artifacts.manifest import read_manifest
from emoverse.cli.__init__ import main
from emoverse.config import EvaluateParams
from emoverse.errors import RowErrors, UserError
from emoverse.evaluation.evaluate import evaluate
from tests.factories.answering import make_amt, make_inputs, rows_of, utterances

REPO = Path(__file__).parents[2]
PARAMS = EvaluateParams(
    controls=("text-only", "face-only"),
    closed="likelihood",
    agreement=6,
    bootstrap=100,
    seed=0,
    batch_size=5,
    max_new_tokens=8,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("folders"))


@pytest.fixture(scope="module")
def scores(folders):
    out = folders["model"].parent / "scores"
    evaluate(folders["model"], folders["amt"], [folders["meld"], folders["ecf"]], out, PARAMS)
    return out


def predictions(folder, name):
    return [json.loads(line) for line in (folder / "predictions" / f"{name}.jsonl").read_text("utf-8").splitlines()]


def test_every_test_row_has_a_prediction_in_its_place(folders, scores):
    for path in (folders["amt"] / "test").iterdir():
        channels = [json.loads(line)["channel"] for line in path.read_text("utf-8").splitlines()]
        assert [row["channel"] for row in predictions(scores, path.stem)] == channels
    rows = read_manifest(scores, made_by="evaluate")["rows"]
    assert rows == {"in": 34, "out": 34, "dropped": {}}


def test_a_closed_reply_is_the_greedy_one_where_that_is_allowed_and_else_the_likeliest(scores):
    for row in predictions(scores, "meld-mer"):
        likely = max(row["probabilities"].values())
        greedy = row.get("generated") in row["probabilities"]
        assert row["response"] == row["generated"] if greedy else row["probabilities"][row["response"]] == likely
        assert sum(row["probabilities"].values()) == pytest.approx(1.0, abs=1e-3)
        assert set(row["controls"]) == {"text-only", "face-only"}
    assert sum("generated" in row for row in predictions(scores, "meld-mer")) == 6


def test_metrics_count_what_the_predictions_say(scores):
    tree = json.loads((scores / "metrics.json").read_text("utf-8"))
    rows = predictions(scores, "meld-mer")
    right = sum(row["response"] == row["labels"] for row in rows) / len(rows)
    assert tree["mer"]["accuracy"] == tree["tests"]["meld-mer"]["accuracy"] == pytest.approx(right, abs=1e-6)
    assert tree["mer"]["low"] <= right <= tree["mer"]["high"]
    assert set(tree["mer"]) >= {"weighted_f1", "macro_f1", "baseline", "text_only", "face_only", "n", "unparsable"}
    assert tree["ecpe"]["unparsable"] == len(predictions(scores, "ecf-ecpe"))  # random weights write no pairs
    # the two conditions of one question are never pooled
    assert (tree["ecpe"]["n"], tree["ecpe_semeval"]["n"], tree["tests"]["ecf-ecpe_semeval"]["n"]) == (10, 2, 2)
    assert tree["ecpe_semeval"]["official_weighted_f1"] == 0.0


def test_plots_are_tables_dvc_can_draw(scores):
    with (scores / "plots" / "confusion-meld-mer.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 12
    assert set(rows[0]) == {"actual", "predicted"}
    assert {path.name for path in (scores / "plots").iterdir()} >= {"classes-meld-mer.csv", "reliability-meld-mer.csv"}


def test_the_verb_gives_the_same_bytes_again(folders, scores, tmp_path, capsys):
    changed = {"agreement": 6, "bootstrap": 100, "batch_size": 5, "max_new_tokens": 8}
    words = ["evaluate", "--model", folders["model"], "--amt", folders["amt"], "--out", tmp_path / "again"]
    words += ["--validated", folders["meld"], folders["ecf"], "--params", REPO / "params.yaml"]
    words += [word for name, value in changed.items() for word in ("--set", f"evaluate.{name}={value}")]
    assert main([str(word) for word in words]) == 0
    assert read_manifest(tmp_path / "again")["outputs"] == read_manifest(scores)["outputs"]
    assert "meld-mer" in capsys.readouterr().out


def test_answers_can_be_generated_instead(folders, tmp_path):
    amt = make_amt(tmp_path / "amt", {"meld-mer": rows_of("mer", utterances("meld", 4))})
    evaluate(folders["model"], amt, [folders["meld"]], tmp_path / "out", replace(PARAMS, closed="generation"))
    rows = predictions(tmp_path / "out", "meld-mer")
    assert all("probabilities" not in row for row in rows)
    tree = json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))
    assert tree["mer"]["unparsable"] == 4


def test_a_folder_without_a_model_is_refused_before_anything_is_written(folders, tmp_path):
    with pytest.raises(UserError, match="there is no model in it"):
        evaluate(folders["amt"], folders["amt"], [folders["meld"], folders["ecf"]], tmp_path / "out", PARAMS)
    assert not (tmp_path / "out").exists()


def test_every_test_row_about_an_unknown_clip_is_named_before_the_model_is_asked(folders, tmp_path, capsys):
    with pytest.raises(RowErrors, match="'clip:ecf/test/dia0_utt1'") as caught:
        evaluate(folders["model"], folders["amt"], [folders["meld"]], tmp_path / "out", PARAMS)
    assert len(caught.value.problems) == 12
    assert capsys.readouterr().out == ""


def test_broken_and_repeated_test_rows_are_all_listed(folders, tmp_path):
    rows = rows_of("mer", utterances("meld", 3))
    rows[2] = {key: value for key, value in rows[2].items() if key != "gold"}
    amt = make_amt(tmp_path / "amt", {"meld-mer": [*rows, rows[0]]})
    with pytest.raises(RowErrors) as caught:
        evaluate(folders["model"], amt, [folders["meld"]], tmp_path / "out", PARAMS)
    assert caught.value.problems == [
        "meld-mer.jsonl:3: missing gold",
        "meld-mer.jsonl:4: channel: 'mer/meld/test/dia0_utt1' repeats line 1",
    ]
