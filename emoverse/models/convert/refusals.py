"""Refuse by name what a native model cannot express, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from emoverse.errors import UserError
from emoverse.models.convert.checkpoint import Checkpoint
from emoverse.models.convert.kinds import of_another_kind, rope_problem, uneven
from emoverse.models.convert.settings import backbone, rope_type, tiles

Config = Mapping[str, Any]
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


def _whole(config: Config) -> list[str]:
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


def _vision(vision: Config, config: Config) -> list[str]:
    found = []
    if vision.get("qk_normalization", True) and vision.get("layer_norm_eps", 1e-6) != 1e-6:
        found.append(f"qk_normalization with layer_norm_eps {vision['layer_norm_eps']} (native uses 1e-06)")
    if vision.get("norm_type", "rms_norm") not in ("layer_norm", "rms_norm"):
        found.append(f"norm_type {vision['norm_type']!r} (layer_norm or rms_norm)")
    layers, selected = vision.get("num_hidden_layers", 48), config.get("select_layer", -1)
    if not -layers - 1 <= selected <= layers:
        found.append(f"select_layer {selected} (the vision tower has {layers} layers)")
    return found


def _text(text: Config) -> list[str]:
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
