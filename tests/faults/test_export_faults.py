"""Exports that are not the model, or not whole, are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from emoverse.config import plain
from emoverse.errors import UserError
from emoverse.evaluation.evaluate import evaluate
from emoverse.export.export import export
from emoverse.export.parity import compare, synthetic_rows
from emoverse.inference.engine import Engine
from emoverse.inference.onnx_engine import onnx_engine
from emoverse.inference.torch_engine import TorchBackend, load_model
from emoverse.prompt.encode import Encoder
from emoverse.prompt.model_settings import settings_of_model
from tests.factories.answering import EVALUATE, EXPORT, TOLERANCE, exported_house


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return exported_house(tmp_path_factory.getbasetemp())


@pytest.fixture
def copy(house, tmp_path):
    return shutil.copytree(house["onnx"], tmp_path / "copy")


def parity_of(house, change=lambda model: None):
    """Compare the export with the model after something was done to the model's weights."""
    folder = house["model"] / "model"
    settings = settings_of_model(folder)
    rows, frames = synthetic_rows(settings)
    model = load_model(folder)
    change(model)
    reference = Engine(TorchBackend(model), Encoder(folder, settings), frames)
    return compare(reference, onnx_engine(house["onnx"], frames, device="cpu"), rows)


def perturb(name: str, by: float):
    def change(model):
        weight = dict(model.named_parameters())[name]
        weight.data[0, 0] += by

    return change


def test_an_unchanged_model_passes(house):
    parity_of(house).require(TOLERANCE)


@pytest.mark.parametrize(
    "name",
    [
        "lm_head.weight",
        "model.language_model.layers.1.self_attn.k_proj.weight",
        "model.multi_modal_projector.linear_1.weight",
        "model.vision_tower.encoder.layer.0.mlp.fc1.weight",
    ],
)
def test_one_perturbed_weight_fails_the_parity_gate(house, name):
    with pytest.raises(UserError, match="largest logit difference"):
        parity_of(house, perturb(name, 0.5)).require(TOLERANCE)


def test_a_nan_weight_stops_the_comparison_and_names_the_row(house):
    with pytest.raises(UserError, match="clip:noise/0: the model's logits are NaN or infinite"):
        parity_of(house, perturb("lm_head.weight", float("nan")))


def test_an_export_outside_the_tolerance_publishes_nothing_and_keeps_the_earlier_one(house, tmp_path):
    out = shutil.copytree(house["onnx"], tmp_path / "onnx")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UserError, match=r"tolerance 1e-12.*export\.tolerance\.fp32 in params\.yaml"):
        export(house["model"], out, replace(EXPORT, tolerance={"fp32": replace(TOLERANCE, absolute=1e-12)}))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not list(tmp_path.glob(".*partial*"))


@pytest.mark.parametrize("name", ["decoder.onnx", "settings.json", "tokenizer.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(UserError, match=name):
        onnx_engine(copy, {})


def test_a_truncated_graph_is_one_clear_line(copy):
    path = copy / "vision.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="onnxruntime cannot open the graphs") as caught:
        onnx_engine(copy, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"encoder": {}, "decoder": {}}'])
def test_broken_settings_are_named(copy, text):
    (copy / "settings.json").write_text(text, "utf-8")
    with pytest.raises(UserError, match=r"settings\.json: not the settings"):
        onnx_engine(copy, {})


def test_a_changed_graph_is_noticed_before_it_is_evaluated(house, copy, tmp_path):
    graph = np.frombuffer((copy / "decoder.onnx").read_bytes(), np.uint8).copy()
    graph[len(graph) // 2] ^= 1
    (copy / "decoder.onnx").write_bytes(graph.tobytes())
    with pytest.raises(UserError, match=r"decoder\.onnx changed"):
        evaluate(copy, house["amt"], [house["meld"], house["ecf"]], tmp_path / "out", replace(EVALUATE, engine="onnx"))


def test_test_rows_without_frames_are_asked_for(house, tmp_path):
    with pytest.raises(UserError, match="--validated"):
        export(house["model"], tmp_path / "out", EXPORT, amt=house["amt"])


def test_a_parity_report_is_json_and_gives_its_tolerance(house):
    report = json.loads(json.dumps(parity_of(house).as_json(TOLERANCE)))
    assert report["tolerance"] == plain(TOLERANCE)
    assert report["largest_absolute"] == float(f"{report['largest_absolute']:.1e}")
