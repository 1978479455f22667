"""Recognise the kind of an InternVL checkpoint by its config, or refuse it by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from emoverse.errors import UserError
from emoverse.models.convert.checkpoint import Checkpoint
from emoverse.models.convert.config import backbone, rope_type, tiles

Config = Mapping[str, Any]
MOST_LAYERS: Final = 1000
DTYPES: Final = ("float64", "float32", "float16", "bfloat16")


class Kind(NamedTuple):
    """What a value may be, in words, and the test of it; ``absent`` says whether null stands for "not given"."""

    words: str
    fits: Callable[[Any], bool]
    absent: bool = False


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_COUNT = Kind("a whole number from 1 on", lambda v: _is_whole(v) and v > 0)
_COUNT_OR_NONE = _COUNT._replace(absent=True)
_LAYERS = Kind(f"a whole number from 1 to {MOST_LAYERS}", lambda v: _is_whole(v) and 0 < v <= MOST_LAYERS)
_WHOLE = Kind("a whole number", _is_whole)
_ABOVE = Kind("a number above 0", lambda v: _is_number(v) and v > 0)
_SHARE = Kind("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)
_RATIO = Kind("1 or a fraction of it such as 0.5", lambda v: _is_number(v) and 0 < v <= 1 and not 1 / v % 1)
_SWITCH = Kind("true or false", lambda v: isinstance(v, bool))
_RANK = Kind("a whole number from 0 on", lambda v: (_is_whole(v) and v >= 0) or isinstance(v, bool), absent=True)
_TEXT = Kind("a text", lambda v: isinstance(v, str))
_NAMES = Kind("a list of class names", lambda v: isinstance(v, list) and all(isinstance(one, str) for one in v))
_TOKEN = Kind("a token's id", lambda v: _is_whole(v) and v >= 0, absent=True)
_TOKENS = Kind(
    "a token's id or a list of ids",
    lambda v: all(_is_whole(one) and one >= 0 for one in (v if isinstance(v, list) else [v])),
    absent=True,
)
_DTYPE = Kind(f"one of {', '.join(DTYPES)}", lambda v: v in DTYPES, absent=True)
_TREE = Kind("an object", lambda v: isinstance(v, dict), absent=True)


def _is_activation(value: Any) -> bool:
    from transformers.activations import ACT2FN

    return isinstance(value, str) and value in ACT2FN


_ACT = Kind("the name of an activation, such as gelu or silu", _is_activation)

WHOLE: Final = {
    "downsample_ratio": _RATIO, "force_image_size": _COUNT_OR_NONE, "max_dynamic_patch": _COUNT,
    "min_dynamic_patch": _COUNT, "select_layer": _WHOLE, "dynamic_image_size": _SWITCH, "use_thumbnail": _SWITCH,
    "pad2square": _SWITCH, "use_backbone_lora": _RANK, "use_llm_lora": _RANK, "ps_version": _TEXT, "template": _TEXT,
    "torch_dtype": _DTYPE,
}  # fmt: skip
VISION: Final = {
    "hidden_size": _COUNT, "num_hidden_layers": _LAYERS, "num_attention_heads": _COUNT, "intermediate_size": _COUNT,
    "image_size": _COUNT, "patch_size": _COUNT, "hidden_act": _ACT, "norm_type": _TEXT, "layer_norm_eps": _ABOVE,
    "qkv_bias": _SWITCH, "qk_normalization": _SWITCH, "attention_dropout": _SHARE, "dropout": _SHARE,
    "drop_path_rate": _SHARE, "initializer_range": _ABOVE, "initializer_factor": _ABOVE,
}  # fmt: skip
TEXT: Final = {
    "architectures": _NAMES, "hidden_size": _COUNT, "num_hidden_layers": _LAYERS, "num_attention_heads": _COUNT,
    "num_key_value_heads": _COUNT_OR_NONE, "intermediate_size": _COUNT, "max_position_embeddings": _COUNT,
    "original_max_position_embeddings": _COUNT, "vocab_size": _COUNT, "rms_norm_eps": _ABOVE, "rope_theta": _ABOVE,
    "rope_scaling": _TREE, "hidden_act": _ACT, "initializer_range": _ABOVE, "bias": _SWITCH, "attention_bias": _SWITCH,
    "tie_word_embeddings": _SWITCH, "use_cache": _SWITCH, "use_sliding_window": _SWITCH,
    "sliding_window": _COUNT_OR_NONE, "attention_dropout": _SHARE, "resid_pdrop": _SHARE, "embd_pdrop": _SHARE,
    "bos_token_id": _TOKEN, "eos_token_id": _TOKENS, "pad_token_id": _TOKEN, "torch_dtype": _DTYPE,
}  # fmt: skip


def of_another_kind(config: Config) -> list[str]:
    """List the settings that are of another kind than their original class takes, with what they should be."""
    found = list(_wrong("", config, WHOLE))
    for name, kinds in (("vision_config", VISION), ("llm_config", TEXT)):
        found += _wrong(f"{name}.", config[name], kinds)
    return found


def _wrong(head: str, section: Config, kinds: Mapping[str, Kind]) -> Iterator[str]:
    for key, kind in kinds.items():
        if key in section and not (kind.fits(section[key]) or (kind.absent and section[key] is None)):
            yield f"{head}{key} {section[key]!r} is not {kind.words}"


def uneven(config: Config) -> list[str]:
    """List the sizes that do not divide as the original needs them to; the defaults are the original classes'."""
    found, vision, text = [], config["vision_config"], config["llm_config"]
    for name, section, wide, heads in (("vision_config", vision, 3200, 25), ("llm_config", text, 4096, 32)):
        wide, heads = section.get("hidden_size", wide), section.get("num_attention_heads", heads)
        if wide % heads:
            found.append(f"{name}.hidden_size {wide} does not divide into {heads} heads")
    heads, keys = text.get("num_attention_heads", 32), text.get("num_key_value_heads")
    if keys and heads % keys:
        found.append(f"llm_config.num_attention_heads {heads} do not divide among {keys} key heads")
    side = (config.get("force_image_size") or vision.get("image_size", 224)) // vision.get("patch_size", 14)
    if not side or side * config.get("downsample_ratio", 0.5) % 1:
        found.append(f"a tile of {side} x {side} patches does not shrink by downsample_ratio")
    return found


def rope_problem(text: Config, numbers: tuple[str, ...], lists: tuple[str, ...]) -> str:
    """Return what is wrong with the values of ``rope_scaling``, empty when nothing is.

    ``numbers`` are keys that hold a factor from 1 on; ``lists`` hold one factor for each pair of a head's dimensions.
    """
    scaling = text.get("rope_scaling") or {}
    for key in numbers:
        if not _is_number(scaling[key]) or scaling[key] < 1:
            return f"rope_scaling.{key} {scaling[key]!r} is not a number from 1 on"
    half = text.get("hidden_size", 3072) // text.get("num_attention_heads", 32) // 2
    for key in lists:
        value = scaling[key]
        if not (isinstance(value, list) and len(value) == half and all(_is_number(one) and one > 0 for one in value)):
            return (
                f"rope_scaling.{key} is not a list of {half} numbers above 0, one for each pair of a head's dimensions"
            )
    return ""


Config_ = Mapping[str, Any]
_PLAIN: Final = "give a checkpoint as OpenGVLab published it in the InternVL2 series"
_Lists = dict[str, tuple[str, ...]]
_FACTOR: Final[_Lists] = {"linear": ("factor",), "dynamic": ("factor",)}
_TABLES: Final = ("short_factor", "long_factor")
_FACTORS: Final[_Lists] = dict.fromkeys(("su", "longrope", "yarn"), _TABLES)
# What each original language model knows as rope_scaling, and the keys that go with it.
_SCALINGS: Final[dict[str, _Lists]] = {
    "InternLM2ForCausalLM": {"default": (), **_FACTOR},
    "LlamaForCausalLM": {"default": (), **_FACTOR},
    "Phi3ForCausalLM": {"default": (), **_FACTORS},
    "Qwen2ForCausalLM": {"default": ()},
}


def refuse(checkpoint: Checkpoint) -> None:
    """Raise UserError, naming every setting at once, when the native model would not compute the same."""
    config = checkpoint.config
    place = str(checkpoint.folder / "config.json")
    if config.get("model_type") != "internvl_chat":
        kind = config.get("model_type")
        remedy = "it is native already: use it as it is" if kind == "internvl" else _PLAIN
        raise UserError(f"model_type {kind!r} is not an original InternVL2 (internvl_chat)", place=place, remedy=remedy)
    for section in ("vision_config", "llm_config"):
        if not isinstance(config.get(section), dict):
            raise UserError(f"has no {section}", place=place, remedy=_PLAIN)
    if config["llm_config"].get("vocab_size") is None:
        raise UserError("has no llm_config.vocab_size", place=place, remedy=_PLAIN)
    if problems := of_another_kind(config):
        raise UserError("; ".join(problems), place=place, remedy="download it again")
    backbone(config, place)
    problems = [*_whole(config), *_vision(config["vision_config"], config), *_text(config["llm_config"])]
    problems += uneven(config)
    if problems:
        raise UserError("cannot be converted: " + "; ".join(problems), place=place, remedy=_PLAIN)


def _whole(config: Config_) -> list[str]:
    version, found = config.get("ps_version", "v1"), []
    if version != "v2":
        found.append(f"ps_version {version!r} (the projector would see its image transposed; only v2 can be expressed)")
    if config.get("pad2square"):
        found.append("pad2square true (the native processor cannot pad)")
    if tiles(config) > 1 and not config.get("use_thumbnail", False):
        found.append("use_thumbnail false with tiling (the native processor always adds the thumbnail)")
    for key in ("use_backbone_lora", "use_llm_lora"):
        if config.get(key):
            found.append(f"{key} {config[key]} (an adapter that is not merged: merge it with the original code first)")
    if config.get("quantization_config") or config["llm_config"].get("quantization_config"):
        found.append("quantization_config (give the unquantised checkpoint)")
    return found


def _vision(vision: Config_, config: Config_) -> list[str]:
    found = []
    if vision.get("qk_normalization", True) and vision.get("layer_norm_eps", 1e-6) != 1e-6:
        found.append(f"qk_normalization with layer_norm_eps {vision['layer_norm_eps']} (native uses 1e-06)")
    if vision.get("norm_type", "rms_norm") not in ("layer_norm", "rms_norm"):
        found.append(f"norm_type {vision['norm_type']!r} (layer_norm or rms_norm)")
    layers, selected = vision.get("num_hidden_layers", 48), config.get("select_layer", -1)
    if not -layers - 1 <= selected <= layers:
        found.append(f"select_layer {selected} (the vision tower has {layers} layers)")
    return found


def _text(text: Config_) -> list[str]:
    found, kind, scaling = [], text["architectures"][0], rope_type(text)
    needed = _SCALINGS[kind].get(scaling)
    if needed is None:
        found.append(f"rope_scaling {scaling!r} (the original {kind} does not know it)")
    elif lacking := [key for key in needed if key not in text["rope_scaling"]]:
        found.append(f"rope_scaling {scaling!r} without {', '.join(lacking)}")
    elif problem := rope_problem(text, *((), needed) if needed == _TABLES else (needed, ())):
        found.append(problem)
    if text.get("rope_pos_id_version", "default") != "default":
        found.append(f"rope_pos_id_version {text['rope_pos_id_version']!r} (fractional positions)")
    reach = text.get("max_position_embeddings", 32768)
    if kind == "Qwen2ForCausalLM" and text.get("use_sliding_window") and text.get("sliding_window", 4096) < reach:
        found.append("use_sliding_window (the original's own attention kernels disagree about it)")
    return found
