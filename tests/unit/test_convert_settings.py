"""Defaults of the original classes, rotary scaling, and keys that are not read."""

import math
from typing import Any

import pytest

from emoverse.errors import UserError
from emoverse.models.original import read_original
from tests.factories.internvl2 import KINDS, config


def native(settings: dict[str, Any]) -> dict[str, Any]:
    return read_original(settings, "config.json").native_settings(rows=300, image_token=7, dtype="float32")


def without(settings: dict[str, Any], section: str, *keys: str) -> dict[str, Any]:
    kept = {key: value for key, value in settings[section].items() if key not in keys}
    return {**settings, section: kept}


def test_what_a_vision_config_leaves_out_is_intern_vit_6b() -> None:
    found = native({**config("qwen2"), "vision_config": {}})["vision_config"]
    wanted = {
        "hidden_size": 3200,
        "num_hidden_layers": 48,
        "num_attention_heads": 25,
        "norm_type": "rms_norm",
        "use_qk_norm": True,
        "attention_bias": False,
        "image_size": 224,
        "use_mean_pooling": True,
    }
    assert {key: found[key] for key in wanted} == wanted


def test_internlm2_has_biases_unless_it_says_not() -> None:
    assert native(without(config("internlm2"), "llm_config", "bias"))["text_config"]["attention_bias"] is True
    assert native(config("internlm2"))["text_config"]["attention_bias"] is False


@pytest.mark.parametrize("kind", ["internlm2", "llama", "phi3"])
def test_without_key_heads_every_head_has_its_own(kind: str) -> None:
    text = native(without(config(kind), "llm_config", "num_key_value_heads"))["text_config"]
    assert text["num_key_value_heads"] == text["num_attention_heads"] == 4


@pytest.mark.parametrize(
    ("kind", "native_kind", "factor"),
    [("su", "longrope", None), ("longrope", "longrope", None), ("yarn", "longrope", 0.1 * math.log(32) + 1)],
)
def test_phi3_rope_is_longrope_by_any_name(kind: str, native_kind: str, factor: float | None) -> None:
    scaling = {"type": kind, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    text = {"rope_scaling": scaling, "max_position_embeddings": 131072, "rope_theta": 500.0}
    rope = native(config("phi3", text=text))["text_config"]["rope_parameters"]
    assert (rope["rope_type"], rope["rope_theta"], rope["factor"]) == (native_kind, 500.0, 32.0)
    assert rope["original_max_position_embeddings"] == 4096
    assert rope.get("attention_factor") == factor


def test_tokens_of_a_tile_follow_from_its_size() -> None:
    settings = config("internlm2", vision={"image_size": 448}, force_image_size=448)
    assert native(settings)["image_seq_length"] == 256


def test_the_language_model_is_named_for_those_who_choose_by_it() -> None:
    found = {kind: native(config(kind))["text_config"] for kind in KINDS}
    assert {kind: (text["model_type"], text["architectures"]) for kind, text in found.items()} == {
        "qwen2": ("qwen2", ["Qwen2ForCausalLM"]),
        "internlm2": ("llama", ["LlamaForCausalLM"]),
        "phi3": ("phi3", ["Phi3ForCausalLM"]),
        "llama": ("llama", ["LlamaForCausalLM"]),
        "internlm3": ("llama", ["LlamaForCausalLM"]),
        "qwen3": ("qwen3", ["Qwen3ForCausalLM"]),
        "qwen3_moe": ("qwen3_moe", ["Qwen3MoeForCausalLM"]),
    }


def in_transformers_5_form(settings: dict[str, Any]) -> dict[str, Any]:
    text = dict(settings["llm_config"])
    scaling = text.pop("rope_scaling", None) or {"type": "default"}
    rope = {"rope_type": scaling["type"], "rope_theta": text.pop("rope_theta")}
    rope |= {key: value for key, value in scaling.items() if key != "type"}
    return {**settings, "llm_config": {**text, "rope_parameters": rope}}


@pytest.mark.parametrize(
    ("kind", "scaling"),
    [
        ("qwen2", None),
        ("qwen2", {"type": "dynamic", "factor": 2.0}),
        ("qwen3", None),
        ("internlm2", {"type": "linear", "factor": 4.0}),
        ("internlm3", {"type": "dynamic", "factor": 6.0}),
        ("phi3", {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}),
    ],
)
def test_rope_parameters_of_transformers_5_mean_what_the_older_keys_mean(kind: str, scaling: Any) -> None:
    settings = config(kind, text={"rope_scaling": scaling, "rope_theta": 500000.0})
    assert native(in_transformers_5_form(settings)) == native(settings)


def test_two_rope_thetas_are_refused() -> None:
    settings = config("qwen2", text={"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}})
    with pytest.raises(UserError, match=r"rope_theta is 10000\.0, in rope_parameters it is 5\.0"):
        native(settings)


@pytest.mark.parametrize("section", ["llm_config", "vision_config"])
@pytest.mark.parametrize("value", [1, 0.5, "yes", True, [1], {"a": 1}])
def test_a_key_that_is_not_read_and_could_decide_the_result_is_refused(section: str, value: Any) -> None:
    settings = config("qwen3")
    settings[section]["a_new_key"] = value
    with pytest.raises(UserError, match=rf"{section}\.a_new_key .* may decide the result"):
        native(settings)


@pytest.mark.parametrize("value", [None, False, [], {}, ""])
def test_a_key_that_is_switched_off_decides_nothing(value: Any) -> None:
    settings = config("qwen3")
    settings["llm_config"]["moe_config"] = value
    assert native(settings) == native(config("qwen3"))


def test_what_a_published_internvl3_config_says_is_read_or_known_not_to_matter() -> None:
    # The keys and values of OpenGVLab/InternVL3-1B's config.json that the tiny one does not have.
    text = {
        "layer_types": ["full_attention"] * 2, "max_window_layers": 70, "moe_config": None, "sliding_window": None,
        "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}, "use_sliding_window": False,
        "use_bfloat16": True, "_name_or_path": "./pretrained/Qwen2.5-32B-Instruct", "attention_dropout": 0.0,
    }  # fmt: skip
    vision = {
        "capacity_factor": 1.2, "eval_capacity_factor": 1.4, "laux_allreduce": "all_nodes", "moe_coeff_ratio": 0.5,
        "moe_intermediate_size": 768, "moe_output_scale": 4.0, "noisy_gate_policy": "RSample_before", "num_experts": 8,
        "num_routed_experts": 4, "num_shared_experts": 4, "shared_expert_intermediate_size": 3072, "use_moe": False,
        "use_residual": True, "use_rts": False, "use_weighted_residual": False, "use_flash_attn": False,
        "initializer_range": 1e-10, "initializer_factor": 0.1, "num_channels": 3, "use_bfloat16": True,
    }  # fmt: skip
    whole = {"template": "internvl2_5", "system_message": None, "image_fold": None, "hidden_size": 64}
    found = native(config("qwen2", text=text, vision=vision, **whole))["text_config"]
    assert found["rope_parameters"] == {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}


def test_a_vision_tower_with_experts_is_refused() -> None:
    with pytest.raises(UserError, match=r"vision_config\.use_moe True"):
        native(config("qwen2", vision={"use_moe": True}))


def test_internlm3_fits_llama_unless_its_biases_differ() -> None:
    assert native(config("internlm3", text={"bias": True, "qkv_bias": True}))["text_config"]["mlp_bias"] is True
    with pytest.raises(UserError, match=r"qkv_bias True with bias False \(see docs/bases\.md#internlm3\)"):
        native(config("internlm3", text={"qkv_bias": True}))
