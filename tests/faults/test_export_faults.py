"""Exports that are not the model, or not whole, are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
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
from emoverse.inference.torch_engine import TorchBackend, load_model, torch_engine
from emoverse.prompt import Encoder, settings_of_model
from tests.factories.answering import EVALUATE, EXPORT, TOLERANCE, exported_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return exported_model(tmp_path_factory.getbasetemp())


@pytest.fixture
def copy(folders, tmp_path):
    return shutil.copytree(folders["onnx"], tmp_path / "copy")


def parity_of(folders, change=lambda model: None):
    """Compare the export with the model after something was done to the model's weights."""
    folder = folders["model"] / "model"
    settings = settings_of_model(folder)
    rows, frames = synthetic_rows(settings)
    model = load_model(folder)
    change(model)
    reference = Engine(TorchBackend(model), Encoder(folder, settings), frames)
    return compare(reference, onnx_engine(folders["onnx"], frames, device="cpu"), rows)


def perturb(name: str, by: float):
    def change(model):
        weight = dict(model.named_parameters())[name]
        weight.data[0, 0] += by

    return change


def test_an_unchanged_model_passes(folders):
    parity_of(folders).require(TOLERANCE)


@pytest.mark.parametrize(
    "name",
    [
        "lm_head.weight",
        "model.language_model.layers.1.self_attn.k_proj.weight",
        "model.multi_modal_projector.linear_1.weight",
        "model.vision_tower.encoder.layer.0.mlp.fc1.weight",
    ],
)
def test_one_perturbed_weight_fails_the_parity_gate(folders, name):
    with pytest.raises(UserError, match="largest logit difference"):
        parity_of(folders, perturb(name, 0.5)).require(TOLERANCE)


def test_a_nan_weight_stops_the_comparison_and_names_the_row(folders):
    with pytest.raises(UserError, match="clip:noise/0: the model's logits are NaN or infinite"):
        parity_of(folders, perturb("lm_head.weight", float("nan")))


def test_an_export_outside_the_tolerance_publishes_nothing_and_keeps_the_earlier_one(folders, tmp_path):
    out = shutil.copytree(folders["onnx"], tmp_path / "onnx")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UserError, match=r"tolerance 1e-12.*export\.tolerance\.fp32 in params\.yaml"):
        export(folders["model"], out, replace(EXPORT, tolerance={"fp32": replace(TOLERANCE, absolute=1e-12)}))
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


def test_a_changed_graph_is_noticed_before_it_is_evaluated(folders, copy, tmp_path):
    graph = np.frombuffer((copy / "decoder.onnx").read_bytes(), np.uint8).copy()
    graph[len(graph) // 2] ^= 1
    (copy / "decoder.onnx").write_bytes(graph.tobytes())
    with pytest.raises(UserError, match=r"decoder\.onnx changed"):
        evaluate(
            copy, folders["amt"], [folders["meld"], folders["ecf"]], tmp_path / "out", replace(EVALUATE, engine="onnx")
        )


def test_test_rows_without_frames_are_asked_for(folders, tmp_path):
    with pytest.raises(UserError, match="--validated"):
        export(folders["model"], tmp_path / "out", EXPORT, amt=folders["amt"])


def test_a_parity_report_is_json_and_gives_its_tolerance(folders):
    report = json.loads(json.dumps(parity_of(folders).as_json(TOLERANCE)))
    assert report["tolerance"] == plain(TOLERANCE)
    assert report["largest_absolute"] == float(f"{report['largest_absolute']:.1e}")


def test_an_export_that_does_not_fit_into_memory_is_refused_before_it_writes(folders, tmp_path):
    with pytest.raises(UserError, match=r"export: fp32 needs about .* set export\.batch_size to \d+"):
        export(folders["model"], tmp_path / "onnx", replace(EXPORT, batch_size=1 << 24))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("one_file", [1, 1 << 30])
def test_an_export_behind_links_answers_as_the_plain_folder_does(folders, tmp_path, one_file):
    plain_folder = tmp_path / "plain"
    params = replace(EXPORT, one_file=one_file)
    export(folders["model"], plain_folder, params, amt=folders["amt"], validated=[folders["meld"], folders["ecf"]])
    assert (plain_folder / "decoder.onnx.data").exists() == (one_file == 1)
    linked = tmp_path / "linked"
    linked.mkdir()
    for number, path in enumerate(sorted(plain_folder.iterdir())):  # as DVC's cache and Hugging Face's blobs
        blob = tmp_path / "blobs" / f"{number:02}" / "content"
        blob.parent.mkdir(parents=True)
        shutil.copyfile(path, blob)
        (linked / path.name).symlink_to(blob)
    rows, frames = synthetic_rows(settings_of_model(folders["model"] / "model"))
    answers = ("Joy.", "Anger.")
    expected, found = (onnx_engine(folder, frames).score_answers(rows, answers)[0] for folder in (plain_folder, linked))
    np.testing.assert_array_equal(found, expected)


def test_a_device_that_is_not_there_is_an_error_only_where_it_is_demanded(folders, capsys):
    engine = onnx_engine(folders["onnx"], {}, device="auto")
    if engine.backend.device == "CUDA":
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=r"device cuda: .*set the device to auto or cpu"):
        onnx_engine(folders["onnx"], {}, device="cuda")
    with pytest.raises(UserError, match="device cuda: torch finds no GPU"):
        torch_engine(folders["model"] / "model", {}, device="cuda")


DRIVER = "int cuInit(unsigned f) {return 0;} int cuDeviceGetCount(int *n) {*n = 1; return 0;}"


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_provider_that_fails_to_load_is_one_line_or_an_error(folders, tmp_path, device):
    """A driver that reports a GPU and can do nothing else, as with libraries of another version."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    script = "import sys; from pathlib import Path; from emoverse.inference.onnx_engine import onnx_engine\n"
    script += "from emoverse.errors import UserError\n"
    script += "try:\n    onnx_engine(Path(sys.argv[1]), {}, device=sys.argv[2])\n"
    script += "except UserError as error:\n    print(error)\n"
    process = subprocess.run([sys.executable, "-c", script, folders["onnx"], device], capture_output=True, text=True,
                             env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}, check=True)  # fmt: skip
    printed = [line for line in (process.stdout + process.stderr).splitlines() if line.strip()]
    if device == "cuda":
        assert printed == [printed[0]]
        assert printed[0].startswith("device cuda: onnxruntime could not load its CUDA libraries; ")
    else:
        assert printed == [
            "onnxruntime on the CPU",
            "onnxruntime could not load its CUDA libraries: it runs on the CPU",
        ]
