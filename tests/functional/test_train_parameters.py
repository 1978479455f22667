"""Exactly the parameters that params.yaml names are trained, whatever the language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from emoverse.training.train import train
from tests.factories.answering import make_amt, make_validated, rows_of, utterances
from tests.factories.training import make_converted, stage_rows, train_params

LAYERS = 2
VISION_LAYERS = 3
ATTENTION = [f"self_attn.{name}_proj" for name in "qkvo"]
FEED_FORWARD = [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
FUSED = ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"]


def language(kind: str) -> set[str]:
    """Return the linear layers of the language model that get an adapter; experts and their router get none."""
    if kind == "phi3":
        every = [FUSED] * LAYERS
    elif kind == "qwen3_moe":
        every = [ATTENTION + FEED_FORWARD, ATTENTION]  # the tiny one's first layer has no experts
    else:
        every = [ATTENTION + FEED_FORWARD] * LAYERS
    return {f"language_model.layers.{i}.{name}" for i, names in enumerate(every) for name in names}


PROJECTOR = {f"multi_modal_projector.{name}" for name in ("linear_1", "linear_2")}
VISION = {
    f"vision_tower.encoder.layer.{i}.{name}"
    for i in range(VISION_LAYERS)
    for name in [*(f"attention.{x}_proj" for x in "qkv"), "attention.projection_layer", "mlp.fc1", "mlp.fc2"]
}


def adapters(modules: set[str]) -> set[str]:
    return {f"base_model.model.model.{module}.lora_{x}.weight" for module in modules for x in "AB"}


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that trains a tiny model of a kind; it gives the folders before and after."""
    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))
    test_rows = rows_of("mer", utterances("meld", 3))
    amt = make_amt(tmp_path / "amt", {"meld-mer": test_rows}, stage_rows(3))
    validated = [make_validated(tmp_path / "meld", "meld", [row["utterance_id"] for row in test_rows])]

    def run(kind: str, **params: Any) -> tuple[Path, Path]:
        base = make_converted(tmp_path / "base", kind)
        # more than one step, as the first of a warm-up has a learning rate of 0
        settings = train_params(epochs=3.0, max_length=1024, batch_size=3, learning_rate=2e-2, **params)
        train("stage1", base, amt, validated, tmp_path / "stage1", settings)
        return base, tmp_path / "stage1"

    return run


@pytest.mark.parametrize("kind", ["qwen2", "internlm2", "internlm3", "phi3", "qwen3", "qwen3_moe"])
def test_an_adapter_is_on_the_linear_layers_of_language_model_and_projector(kind: str, trained: Any) -> None:
    _, stage = trained(kind, projector="lora")
    assert load_file(stage / "adapter/adapter_model.safetensors").keys() == adapters(language(kind) | PROJECTOR)


@pytest.mark.parametrize(
    ("projector", "vision", "expected"),
    [
        ("frozen", False, adapters(language("qwen3"))),
        (
            "full",
            False,
            adapters(language("qwen3"))
            | {
                f"base_model.model.model.multi_modal_projector.{name}.{part}"
                for name in ("layer_norm", "linear_1", "linear_2")
                for part in ("weight", "bias")
            },
        ),
        ("lora", True, adapters(language("qwen3") | PROJECTOR | VISION)),
    ],
)
def test_projector_and_vision_tower_are_trained_as_the_parameters_say(
    projector: str, vision: bool, expected: set[str], trained: Any
) -> None:
    base, stage = trained("qwen3", projector=projector, train_vision=vision)
    assert load_file(stage / "adapter/adapter_model.safetensors").keys() == expected
    before, after = (load_file(folder / "model/model.safetensors") for folder in (base, stage))
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    modules = {
        name.removeprefix("base_model.model.model.").split(".lora_")[0].removesuffix(".weight") for name in expected
    }
    on_disk = {module.replace("language_model.", "language_model.model.") for module in modules}
    weights = {name.removesuffix(".weight") for name in changed if name.endswith(".weight")}
    assert weights == {module for module in on_disk if not module.endswith(".bias")}


def test_full_training_changes_language_model_and_projector_and_nothing_of_the_vision_tower(trained: Any) -> None:
    base, stage = trained("qwen3", tuner="full")
    before, after = (load_file(folder / "model/model.safetensors") for folder in (base, stage))
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {name for name in after if not name.startswith("vision_tower.")}
