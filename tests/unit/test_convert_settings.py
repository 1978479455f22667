"""What a key means that an original config leaves out, and what becomes of rope."""

import math
from typing import Any

import pytest

from emoverse.models.convert.config import native_config
from tests.factories.internvl2 import config


def native(settings: dict[str, Any]) -> dict[str, Any]:
    return native_config(settings, rows=300, image_token=7, place="config.json")


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
    found = {kind: native(config(kind))["text_config"] for kind in ("qwen2", "internlm2", "phi3", "llama")}
    assert {kind: (text["model_type"], text["architectures"]) for kind, text in found.items()} == {
        "qwen2": ("qwen2", ["Qwen2ForCausalLM"]),
        "internlm2": ("llama", ["LlamaForCausalLM"]),
        "phi3": ("phi3", ["Phi3ForCausalLM"]),
        "llama": ("llama", ["LlamaForCausalLM"]),
    }
