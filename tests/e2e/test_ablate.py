"""Ablations over the main job's outputs: trained, scored, in a table, on the page."""

import json

import pytest

from tests.factories.checkout import Checkout

pytestmark = pytest.mark.slow
INPUTS = ("--validated", "data/validated", "--amt", "data/amt", "--base", "data/base", "--scores", "data/scores")
QUICK = ("--set", "stage2.epochs=0.02", "--set", "evaluate.bootstrap=20")


def test_a_model_without_stage_1_stands_beside_the_whole_one(repro: Checkout) -> None:
    command = ("emoverse", "ablate", *INPUTS, *QUICK, "--only", "without-stage1", "--out", "scratch/ablated")
    printed = repro.run(*command)
    rows = json.loads((repro.root / "scratch/ablated/ablations.json").read_text("utf-8"))
    assert [row["title"] for row in rows] == ["whole model", "words only", "face only", "without stage 1"]
    metrics = json.loads((repro.root / "data/scores/metrics.json").read_text("utf-8"))
    assert rows[0]["tasks"]["mer"]["value"] == metrics["mer"]["accuracy"]
    assert rows[1]["tasks"]["mer"]["value"] == metrics["mer"]["text_only"]
    assert all(one["low"] <= one["high"] for row in rows for one in row["tasks"].values())
    assert "without stage 1" in printed
    before = (repro.root / "scratch/ablations/without-stage1/scores/manifest.json").stat().st_mtime_ns
    repro.run(*command)
    assert (repro.root / "scratch/ablations/without-stage1/scores/manifest.json").stat().st_mtime_ns == before
    stages = ("data/base", "data/stage1", "data/stage2")
    given = ("--validated", "data/validated", "--amt", "data/amt", "--stages", *stages, "--scores", "data/scores")
    repro.run(
        "emoverse", "report", *given, "--onnx", "data/onnx", "--ablations", "scratch/ablated", "--out", "scratch/page"
    )
    assert "without stage 1" in (repro.root / "scratch/page/index.html").read_text("utf-8")
