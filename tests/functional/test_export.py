"""Export a tiny model, and use what was exported."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from emoverse.evaluation.step import evaluate
from emoverse.export.step import export
from emoverse.manifest import read_manifest
from tests.factories.answering import EVALUATE, EXPORT, exported_house

ALONE = """
import sys
from pathlib import Path
import numpy as np
from emoverse.inference.onnx_engine import onnx_engine

frames = {"clip:x": np.full((3, 32, 32, 3), 90, np.uint8)}
rows = [{"messages": [{"role": "user", "content": "<video>How do they feel?"}], "videos": ["clip:x"], "channel": "x"}]
engine = onnx_engine(Path(sys.argv[1]), frames)
print(engine.likelihoods(rows, ["Joy.", "Fear."]).shape, len(engine.generate(rows, 4)))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "swift", "pyarrow"}))
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return exported_house(tmp_path_factory.getbasetemp())


def test_an_export_holds_all_that_a_caller_needs(house):
    names = {path.name for path in house["onnx"].iterdir()}
    graphs = {"vision.onnx", "embed.onnx", "decoder.onnx"}
    assert names == graphs | {
        "tokenizer.json", "settings.json", "parity.json", "prompts.json", "MODEL_CARD.md", "manifest.json"
    }  # fmt: skip
    report = json.loads((house["onnx"] / "parity.json").read_text("utf-8"))
    assert report["rows"] == 14
    assert report["largest_absolute"] < 1e-4
    assert report["greedy_equal"] == report["answers_equal"] == 1.0
    prompts = json.loads((house["onnx"] / "prompts.json").read_text("utf-8"))
    assert prompts["meld-mer"]["answers"][0] == "Anger."
    assert "<video>" in prompts["ecf-ecpe"]["messages"][1]["content"]


def test_the_model_card_names_the_model_and_its_scores(house):
    card = (house["onnx"] / "MODEL_CARD.md").read_text("utf-8")
    assert read_manifest(house["model"])["outputs"]["digest"][:12] in card
    assert "| meld-mer | 8 |" in card


def test_evaluating_the_export_gives_the_models_own_predictions(house, tmp_path):
    validated = [house["meld"], house["ecf"]]
    evaluate(house["onnx"], house["amt"], validated, tmp_path / "out", replace(EVALUATE, engine="onnx"))
    for path in (house["scores"] / "predictions").iterdir():
        mine = (tmp_path / "out" / "predictions" / path.name).read_text("utf-8").splitlines()
        for one, other in zip(mine, path.read_text("utf-8").splitlines(), strict=True):
            a, b = json.loads(one), json.loads(other)
            assert a.pop("probabilities", {}) == pytest.approx(b.pop("probabilities", {}), abs=2e-4)
            assert a == b


def test_an_export_runs_with_neither_torch_nor_transformers(house):
    words = [sys.executable, "-c", ALONE, str(house["onnx"])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["onnxruntime on the CPU", "(1, 2) 1", "[]"]


def test_an_export_without_a_dataset_has_the_same_graphs_and_they_name_no_path(house, tmp_path):
    export(house["model"], tmp_path / "onnx", EXPORT)
    assert json.loads((tmp_path / "onnx" / "parity.json").read_text("utf-8"))["rows"] == 3
    for name in ("vision.onnx", "embed.onnx", "decoder.onnx"):
        blob = (tmp_path / "onnx" / name).read_bytes()
        assert blob == (house["onnx"] / name).read_bytes()
        assert b"site-packages" not in blob
        assert b".py" not in blob
