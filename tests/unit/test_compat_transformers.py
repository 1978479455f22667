"""What an upgrade of transformers must keep: the private interfaces that emoverse.compat.transformers uses."""

from __future__ import annotations

import torch

from emoverse.compat.transformers import all_experts, sdpa_attention
from tests.factories.internvl_native import native_model


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.arange(20, 40).reshape(2, 10)).logits


def test_every_expert_computed_is_what_the_chosen_ones_give() -> None:
    model = native_model("qwen3_moe")
    before, implementation = logits(model), model.get_experts_implementation()
    with all_experts(model):
        assert model.get_experts_implementation() != implementation
        torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    assert model.get_experts_implementation() == implementation


def test_a_model_without_experts_is_left_alone() -> None:
    model = native_model("qwen2")
    before = model.get_experts_implementation()
    with all_experts(model):
        assert model.get_experts_implementation() == before


def test_sdpa_lasts_as_long_as_the_block() -> None:
    model = native_model("qwen2")
    model.set_attn_implementation("eager")
    with sdpa_attention(model):
        assert model.config._attn_implementation == "sdpa"
        assert model.config.text_config._attn_implementation == "sdpa"
    assert model.config._attn_implementation == "eager"
