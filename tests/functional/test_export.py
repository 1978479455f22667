"""Export a tiny model, and use what was exported."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest

from emoverse.artifacts.manifest import read_manifest
from emoverse.evaluation.evaluate import evaluate
from emoverse.export.export import export
from emoverse.inference.onnx_engine import onnx_engine
from tests.factories.answering import EVALUATE, EXPORT, exported_model

ALONE = """
import sys
from pathlib import Path
import numpy as np
from emoverse.inference.onnx_engine import onnx_engine

frames = {"clip:x": np.full((3, 32, 32, 3), 90, np.uint8)}
rows = [{"messages": [{"role": "user", "content": "<video>How do they feel?"}], "videos": ["clip:x"], "channel": "x"}]
engine = onnx_engine(Path(sys.argv[1]), frames)
print(engine.score_answers(rows, ["Joy.", "Fear."])[0].shape, len(engine.generate(rows, 4)))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "swift", "pyarrow"}))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return exported_model(tmp_path_factory.getbasetemp())


def test_an_export_holds_all_that_a_caller_needs(folders):
    names = {path.name for path in folders["onnx"].iterdir()}
    graphs = {"vision.onnx", "embed.onnx", "decoder.onnx"}
    assert names == graphs | {
        "tokenizer.json", "settings.json", "parity.json", "prompts.json", "MODEL_CARD.md", "manifest.json"
    }  # fmt: skip
    report = json.loads((folders["onnx"] / "parity.json").read_text("utf-8"))["fp32"]
    assert report["rows"] == 14
    assert report["largest_absolute"] < 1e-4
    assert report["greedy_equal"] == report["answers_equal"] == report["top1_agreement"] == 1.0
    assert sorted(report["scores"]) == ["ecf-ecpe", "ecf-ecpe_semeval", "meld-mer", "meld-msa"]
    assert report["score_difference"] == 0.0
    assert report["bytes"] == sum((folders["onnx"] / name).stat().st_size for name in graphs)
    prompts = json.loads((folders["onnx"] / "prompts.json").read_text("utf-8"))
    assert prompts["meld-mer"]["answers"][0] == "Anger."
    assert "<video>" in prompts["ecf-ecpe"]["messages"][1]["content"]


def test_the_model_card_names_the_model_and_its_scores(folders):
    card = (folders["onnx"] / "MODEL_CARD.md").read_text("utf-8")
    assert read_manifest(folders["model"])["outputs"]["digest"][:12] in card
    assert "| meld-mer | 8 |" in card
    metrics = json.loads((folders["scores"] / "metrics.json").read_text("utf-8"))["tests"]["meld-mer"]
    assert f"| {metrics['headline']:.3f} | {metrics['low']:.3f} to {metrics['high']:.3f} |" in card
    for name in ("amt", "meld", "ecf", "scores"):  # the data, too, by its digests
        assert read_manifest(folders[name])["outputs"]["digest"][:12] in card
    assert all(corpus in card.partition("## Licences of the data")[2] for corpus in ("MELD", "ECF", "CMU-MOSEI"))


def test_evaluating_the_export_gives_the_models_own_predictions(folders, tmp_path):
    validated = [folders["meld"], folders["ecf"]]
    evaluate(folders["onnx"], folders["amt"], validated, tmp_path / "out", replace(EVALUATE, engine="onnx"))
    for path in (folders["scores"] / "predictions").iterdir():
        mine = (tmp_path / "out" / "predictions" / path.name).read_text("utf-8").splitlines()
        for one, other in zip(mine, path.read_text("utf-8").splitlines(), strict=True):
            a, b = json.loads(one), json.loads(other)
            assert a.pop("probabilities", {}) == pytest.approx(b.pop("probabilities", {}), abs=2e-4)
            assert a == b


def test_the_cache_stays_with_the_decoder_and_a_batch_may_lose_rows(folders):
    backend = onnx_engine(folders["onnx"], {}, device="cpu").backend
    ids, mask, columns = np.arange(8).reshape(2, 4) + 9, np.tril(np.ones((4, 4), bool))[None, None], np.array([3])
    places = np.arange(4)[None].repeat(2, 0)
    _, past = backend.decode(ids, None, mask.repeat(2, 0), places, None, columns)
    assert {value.device_name() for value in past} == {"cpu"}
    assert past[0].shape()[0] == 2
    one, mask = np.array([[7]]), np.ones((1, 1, 1, 5), bool)
    alone, _ = backend.decode(one, None, mask, np.array([[4]]), backend.select_rows(past, np.array([1])), np.array([0]))
    whole = np.concatenate([ids[1:], one], axis=1)
    mask = np.tril(np.ones((5, 5), bool))[None, None]
    again, _ = backend.decode(whole, None, mask, np.arange(5)[None], None, np.array([4]))
    np.testing.assert_allclose(alone, again, atol=1e-5)


def test_an_export_runs_with_neither_torch_nor_transformers(folders):
    words = [sys.executable, "-c", ALONE, str(folders["onnx"])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["onnxruntime on the CPU", "(1, 2) 1", "[]"]


def test_an_export_without_a_dataset_has_the_same_graphs_and_they_name_no_path(folders, tmp_path):
    export(folders["model"], tmp_path / "onnx", EXPORT)
    assert json.loads((tmp_path / "onnx" / "parity.json").read_text("utf-8"))["fp32"]["rows"] == 3
    for name in ("vision.onnx", "embed.onnx", "decoder.onnx"):
        blob = (tmp_path / "onnx" / name).read_bytes()
        assert blob == (folders["onnx"] / name).read_bytes()
        graph = onnx.load_from_string(blob).graph
        for tensor in graph.initializer:
            tensor.ClearField("raw_data")  # any bytes occur among weights
        named = graph.SerializeToString()
        assert b"site-packages" not in named
        assert b".py" not in named
