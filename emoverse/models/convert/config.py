"""Turn an original config.json into a native one.

Defaults are those of the original classes (configuration_internvl_chat.py, configuration_intern_vit.py and the like),
because a key that is absent there means something else here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from emoverse.errors import UserError

Config = Mapping[str, Any]
_OURS: Final = {
    "Qwen2ForCausalLM": "qwen2",
    "InternLM2ForCausalLM": "llama",
    "LlamaForCausalLM": "llama",
    "Phi3ForCausalLM": "phi3",
}
_NATIVE: Final = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM", "phi3": "Phi3ForCausalLM"}


def backbone(config: Config, place: str) -> str:
    """Return the language model's class (``InternLM2ForCausalLM``); raise UserError for one that is not known."""
    named = config["llm_config"].get("architectures") or [None]
    if named[0] not in _OURS:
        remedy = f"known: {', '.join(_OURS)}"
        raise UserError(f"the text backbone {named[0]!r} is unknown", place=place, remedy=remedy)
    return str(named[0])


def tiles(config: Config) -> int:
    """Return how many tiles an image may be cut into, thumbnail aside; 1 means no tiling."""
    return int(config.get("max_dynamic_patch", 6)) if config.get("dynamic_image_size", False) else 1


def image_size(config: Config) -> int:
    """Return the side of a tile in pixels."""
    return int(config.get("force_image_size") or config["vision_config"].get("image_size", 224))


def tokens_per_tile(config: Config) -> int:
    """Return how many tokens of the language model one tile becomes (256 for InternVL2)."""
    side = image_size(config) // config["vision_config"].get("patch_size", 14)
    return int(side**2 * config.get("downsample_ratio", 0.5) ** 2)


def native_config(config: Config, *, rows: int, image_token: int, place: str) -> dict[str, Any]:
    """Return the arguments of transformers' InternVLConfig; ``rows`` is the number of rows the embedding will have."""
    dtype = config.get("torch_dtype") or config["llm_config"].get("torch_dtype") or "float32"
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "vision_config": {**_vision_config(config["vision_config"]), "dtype": dtype},
        "text_config": {
            **_text_config(config["llm_config"], backbone(config, place)),
            "vocab_size": rows,
            "dtype": dtype,
        },
        "image_token_id": image_token,
        "image_seq_length": tokens_per_tile(config),
        "downsample_ratio": config.get("downsample_ratio", 0.5),
        "projector_hidden_act": "gelu",
        "vision_feature_layer": config.get("select_layer", -1),
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "dtype": dtype,
    }


def _vision_config(vision: Config) -> dict[str, Any]:
    # (native name, original name, original default). drop_path_rate has no counterpart: it acts in training only.
    names: list[tuple[str, str, Any]] = [
        ("hidden_size", "hidden_size", 3200),
        ("num_hidden_layers", "num_hidden_layers", 48),
        ("num_attention_heads", "num_attention_heads", 25),
        ("intermediate_size", "intermediate_size", 12800),
        ("image_size", "image_size", 224),
        ("patch_size", "patch_size", 14),
        ("hidden_act", "hidden_act", "gelu"),
        ("norm_type", "norm_type", "rms_norm"),
        ("layer_norm_eps", "layer_norm_eps", 1e-6),
        ("attention_bias", "qkv_bias", False),
        ("use_qk_norm", "qk_normalization", True),
        ("attention_dropout", "attention_dropout", 0.0),
        ("projection_dropout", "dropout", 0.0),
        ("initializer_range", "initializer_range", 0.02),
        ("layer_scale_init_value", "initializer_factor", 0.1),
    ]
    fixed = {"use_mean_pooling": True, "hidden_dropout_prob": 0.0, "num_channels": 3}
    # JSON's 1 is a float where the class wants one.
    given = ((native, vision.get(original, default), type(default)) for native, original, default in names)
    return {**{native: float(value) if kind is float else value for native, value, kind in given}, **fixed}


def _text_config(text: Config, kind: str) -> dict[str, Any]:
    model = _OURS[kind]
    special: Callable[[Config], dict[str, Any]] = {
        "Qwen2ForCausalLM": _qwen2,
        "InternLM2ForCausalLM": _internlm2,
        "LlamaForCausalLM": _llama,
        "Phi3ForCausalLM": _phi3,
    }[kind]
    common = {
        "model_type": model,
        "architectures": [_NATIVE[model]],  # vLLM and lmdeploy choose the language model by it
        "hidden_act": text.get("hidden_act", "silu"),
        "initializer_range": float(text.get("initializer_range", 0.02)),
        "use_cache": text.get("use_cache", True),
        "tie_word_embeddings": False,
    }
    return {**common, **special(text)}


def _qwen2(text: Config) -> dict[str, Any]:
    sizes = _sizes(text, hidden=4096, inner=22016, layers=32, heads=32, keys=32, reach=32768, eps=1e-6)
    own = {"use_sliding_window": False, "attention_dropout": text.get("attention_dropout", 0.0)}
    return {**sizes, **own, "rope_parameters": _rope(text), **_ids(text, None, None, None)}


def _internlm2(text: Config) -> dict[str, Any]:
    sizes = _sizes(text, hidden=4096, inner=11008, layers=32, heads=32, keys=None, reach=2048, eps=1e-6)
    # InternLM2's one switch stands for the projections of queries, keys and values and for the output's.
    own = {"attention_bias": text.get("bias", True), "mlp_bias": False}
    return {**sizes, **own, "rope_parameters": _rope(text, "factor"), **_ids(text, 1, 2, 0)}


def _llama(text: Config) -> dict[str, Any]:
    sizes = _sizes(text, hidden=4096, inner=11008, layers=32, heads=32, keys=None, reach=2048, eps=1e-6)
    own = {"attention_bias": text.get("attention_bias", False), "mlp_bias": False}
    own["attention_dropout"] = text.get("attention_dropout", 0.0)
    return {**sizes, **own, "rope_parameters": _rope(text, "factor"), **_ids(text, 1, 2, None)}


def _phi3(text: Config) -> dict[str, Any]:
    sizes = _sizes(text, hidden=3072, inner=8192, layers=32, heads=32, keys=None, reach=4096, eps=1e-5)
    trained = text.get("original_max_position_embeddings", 4096)
    rope = _rope(text, "short_factor", "long_factor")
    if rope["rope_type"] != "default":
        scale = max(1.0, sizes["max_position_embeddings"] / trained)
        if rope["rope_type"] == "yarn":
            # The original's "yarn" is longrope with another factor; natively the name alone would change the result.
            rope["attention_factor"] = 0.1 * math.log(scale) + 1.0
        rope.update(rope_type="longrope", factor=scale, original_max_position_embeddings=trained)
    own = {key: text.get(key, 0.0) for key in ("resid_pdrop", "embd_pdrop", "attention_dropout")}
    own.update(original_max_position_embeddings=trained, sliding_window=text.get("sliding_window"))
    return {**sizes, **own, "rope_parameters": rope, **_ids(text, 1, 32000, 32000)}


def _sizes(
    text: Config, *, hidden: int, inner: int, layers: int, heads: int, keys: int | None, reach: int, eps: float
) -> dict[str, Any]:
    heads = text.get("num_attention_heads", heads)
    shared = text.get("num_key_value_heads", keys)
    return {
        "hidden_size": text.get("hidden_size", hidden),
        "intermediate_size": text.get("intermediate_size", inner),
        "num_hidden_layers": text.get("num_hidden_layers", layers),
        "num_attention_heads": heads,
        "num_key_value_heads": heads if shared is None else shared,
        "max_position_embeddings": text.get("max_position_embeddings", reach),
        "rms_norm_eps": float(text.get("rms_norm_eps", eps)),
    }


def rope_type(text: Config) -> str:
    """Return the kind of rotary scaling: ``default``, or what ``rope_scaling`` calls itself."""
    scaling = text.get("rope_scaling") or {}
    return str(scaling.get("type", scaling.get("rope_type"))) if scaling else "default"


def _rope(text: Config, *carried: str) -> dict[str, Any]:
    kind, scaling = rope_type(text), text.get("rope_scaling") or {}
    theta = float(text.get("rope_theta", 10000.0))
    return {"rope_type": kind, "rope_theta": theta, **{key: scaling[key] for key in carried if scaling}}


def _ids(text: Config, bos: int | None, eos: int | None, pad: int | None) -> dict[str, Any]:
    names = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    return {key: text.get(key, default) for key, default in names.items()}


def head_counts(config: Config, place: str) -> tuple[int, int]:
    """Return how many query heads and how many key (and value) heads the language model has."""
    text = _text_config(config["llm_config"], backbone(config, place))
    return int(text["num_attention_heads"]), int(text["num_key_value_heads"])
