"""Converted InternVL models, whatever their text model, go the whole way: two stages, scores, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from emoverse.artifacts.manifest import read_manifest
from emoverse.evaluation.evaluate import evaluate
from emoverse.export.export import export
from emoverse.training.train import train
from tests.factories.answering import EVALUATE, EXPORT, make_amt, make_validated, rows_of, utterances
from tests.factories.training import make_converted, stage_rows, train_params

DYNAMIC = {"rope_scaling": {"type": "dynamic", "factor": 2.0}}
# The text models of InternVL2 to 3.5; InternVL3-1B and 2B are Qwen2 with frequencies that change beyond a length.
TEXT_MODELS: dict[str, dict[str, Any]] = {
    "qwen2": DYNAMIC, "internlm2": {}, "phi3": {}, "llama": {}, "internlm3": {}, "qwen3": {}, "qwen3_moe": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXT_MODELS)
def test_a_converted_model_is_trained_twice_scored_and_exported(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))
    test_rows = rows_of("mer", utterances("meld", 6))
    amt = make_amt(tmp_path / "amt", {"meld-mer": test_rows}, stage_rows(6))
    validated = [make_validated(tmp_path / "meld", "meld", [row["utterance_id"] for row in test_rows])]
    base = make_converted(tmp_path / "base", kind, text=TEXT_MODELS[kind])
    params = train_params(epochs=3.0, max_length=1024, batch_size=3, learning_rate=2e-2)

    model = base
    for stage in ("stage1", "stage2"):
        train(stage, model, amt, validated, tmp_path / stage, params)
        assert read_manifest(tmp_path / stage)["rows"] == {"in": 6, "out": 6, "dropped": {}}
        model = tmp_path / stage
    losses = [json.loads(line)["loss"] for line in (tmp_path / "stage1" / "log.jsonl").read_text("utf-8").splitlines()]
    losses += [json.loads(line)["loss"] for line in (model / "log.jsonl").read_text("utf-8").splitlines()]
    assert losses[-1] < 0.9 * losses[0]
    before, after = (load_file(place / "model" / "model.safetensors") for place in (base, model))
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert any("multi_modal_projector" in name for name in changed)
    assert any("self_attn" in name for name in changed)
    assert not [name for name in changed if "vision" in name]

    evaluate(model, amt, validated, tmp_path / "scores", EVALUATE)
    replies = [json.loads(line) for line in (tmp_path / "scores/predictions/meld-mer.jsonl").open(encoding="utf-8")]
    assert [row["channel"] for row in replies] == [row["channel"] for row in test_rows]
    export(model, tmp_path / "onnx", EXPORT, amt=amt, validated=validated, scores=tmp_path / "scores")
    parity = json.loads((tmp_path / "onnx" / "parity.json").read_text("utf-8"))["fp32"]
    assert parity["greedy_equal"] == parity["answers_equal"] == 1.0
    assert parity["largest_absolute"] < 1e-4
