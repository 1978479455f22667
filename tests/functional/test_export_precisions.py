"""Graphs in half precision and with weights of 8 and 4 bits, their weights beside them or inside."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from emoverse.artifacts.manifest import open_source
from emoverse.errors import UserError
from emoverse.evaluation.evaluate import evaluate
from emoverse.export.export import export
from emoverse.export.graphs import check_precisions, quantise
from emoverse.export.parity import compare, logits, synthetic_rows
from emoverse.inference.engine import Engine
from emoverse.inference.onnx_engine import GRAPHS, onnx_engine
from emoverse.inference.torch_engine import TorchBackend, load_model
from emoverse.prompt import Encoder, settings_of_model
from tests.factories.answering import EVALUATE, EXPORT, TOLERANCE, exported_model

LESS = ("fp16", "int8", "int4")
ORDER = ("int8", "fp32", "fp16", "int4")
WIDE = {
    "fp16": replace(TOLERANCE, absolute=0.5, relative=0.05, top1=0.9, greedy=0.5, answers=0.9, score=0.3),
    "int8": replace(TOLERANCE, absolute=2.0, relative=0.2, top1=0.8, greedy=0.2, answers=0.8, score=0.3),
    "int4": replace(TOLERANCE, absolute=30.0, relative=3.0, top1=0.1, greedy=0.0, answers=0.0, score=1.0),
}
SMALL = 40_000  # bytes of weights that a graph keeps inside


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return exported_model(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def every(folders, tmp_path_factory):
    """Return an export in every precision, int8 first, weights beside the larger graphs."""
    out = tmp_path_factory.mktemp("precisions") / "onnx"
    params = replace(EXPORT, precision=ORDER, tolerance={"fp32": TOLERANCE, **WIDE}, one_file=SMALL)
    export(folders["model"], out, params, amt=folders["amt"], validated=[folders["meld"], folders["ecf"]])
    return out


def test_every_precision_has_its_own_report_and_its_own_folder(every):
    report = json.loads((every / "parity.json").read_text("utf-8"))
    assert list(report) == sorted(("fp32", *LESS))
    for folder in (every, *(every / name for name in ORDER[1:])):
        assert all((folder / graph).is_file() for graph in GRAPHS)
    for name in LESS:
        assert report[name]["tolerance"]["absolute"] == WIDE[name].absolute
        assert report[name]["bytes"] < 0.7 * report["fp32"]["bytes"]
    gaps = [report[name]["largest_absolute"] for name in ("fp32", *LESS)]
    assert gaps == sorted(gaps)
    assert gaps[1] > 1e-4
    assert "| int8 | " in (every / "MODEL_CARD.md").read_text("utf-8")


def test_weights_beside_a_graph_are_named_in_the_manifest_and_change_no_answer(folders, every):
    files = open_source(every, made_by="export").manifest["outputs"]["files"]
    assert {"decoder.onnx.data", "fp16/decoder.onnx.data", "fp32/vision.onnx.data"} <= files.keys()
    assert (every / "fp32/decoder.onnx").stat().st_size < (every / "fp32/decoder.onnx.data").stat().st_size
    assert not list(folders["onnx"].glob("*.data"))
    rows, frames = synthetic_rows(settings_of_model(folders["model"] / "model"))
    inside, beside = (onnx_engine(folder, frames, precision="fp32") for folder in (folders["onnx"], every))
    for row in rows:
        np.testing.assert_array_equal(logits(inside, row), logits(beside, row))


def test_a_precision_is_chosen_by_name_and_an_unknown_one_is_refused(every):
    rows, frames = synthetic_rows(settings_of(every))
    names = (None, *ORDER)
    found = {name: logits(onnx_engine(every, frames, device="cpu", precision=name), rows[0]) for name in names}
    assert len({one.tobytes() for one in found.values()}) == 4
    np.testing.assert_array_equal(found[None], found["int8"])
    with pytest.raises(UserError, match=r"there are no int3 graphs in it; did you mean 'int[48]'"):
        onnx_engine(every, frames, precision="int3")


def settings_of(folder):
    from emoverse.prompt import Settings

    return Settings.from_json(json.loads((folder / "settings.json").read_text("utf-8"))["encoder"])


def test_the_first_precision_is_the_one_evaluated(folders, every, tmp_path):
    evaluate(
        every, folders["amt"], [folders["meld"], folders["ecf"]], tmp_path / "scores", replace(EVALUATE, engine="onnx")
    )
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text("utf-8"))["tests"]["meld-mer"]["n"] == 8


@pytest.mark.parametrize("name", LESS)
def test_a_perturbed_weight_fails_every_precision(folders, every, name):
    folder = folders["model"] / "model"
    rows, frames = synthetic_rows(settings_of_model(folder))
    candidate = onnx_engine(every, frames, device="cpu", precision=name)
    model = load_model(folder)
    reference = Engine(TorchBackend(model), Encoder(folder, settings_of_model(folder)), frames)
    compare(reference, candidate, rows).require(WIDE[name], name)
    dict(model.named_parameters())["lm_head.weight"].data[:, 0] += 100.0
    with pytest.raises(UserError, match=rf"the exported {name} model differs.*export\.tolerance\.{name}"):
        compare(reference, candidate, rows).require(WIDE[name], name)


def test_quantising_twice_gives_the_same_bytes(folders, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        quantise(folders["onnx"], tmp_path / name, 4, 1 << 30)
    for name in GRAPHS:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("precision", "problem"), [(("fp32", "fp32"), "name each precision once"), (("int4",), "int4 has no tolerance")]
)
def test_precisions_must_be_distinct_and_have_a_tolerance(precision, problem):
    with pytest.raises(UserError, match=problem):
        check_precisions(replace(EXPORT, precision=precision))
    check_precisions(EXPORT)
