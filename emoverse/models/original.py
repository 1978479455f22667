"""Read config.json of InternVL's original layout (``internvl_chat``), and refuse what cannot be expressed natively.

Defaults are those of the original classes (configuration_internvl_chat.py, configuration_intern_vit.py): an absent key
means something else there than it does natively.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from emoverse.errors import UserError
from emoverse.models.architecture import TABLE, Architecture, Config, first, tokens_of, unknown_kind
from emoverse.models.original_text import (
    TEXT_CONFIGS,
    Activation,
    ConfigSection,
    Count,
    Layers,
    Positive,
    Share,
    TextConfig,
)

# InternViT's mixture of experts, which ``use_moe`` switches, and what only acts in training or with a sliding window.
_VISION_UNUSED: Final = frozenset((
    "capacity_factor", "eval_capacity_factor", "laux_allreduce", "moe_coeff_ratio", "moe_intermediate_size",
    "moe_output_scale", "noisy_gate_policy", "num_experts", "num_routed_experts", "num_shared_experts",
    "shared_expert_intermediate_size", "use_residual", "use_rts", "use_weighted_residual",
))  # fmt: skip


class VisionConfig(ConfigSection):
    """InternViT; an empty section is InternViT-6B."""

    unused = _VISION_UNUSED
    hidden_size: Count = 3200
    num_hidden_layers: Layers = 48
    num_attention_heads: Count = 25
    intermediate_size: Count = 12800
    image_size: Count = 224
    patch_size: Count = 14
    num_channels: Literal[3] = 3
    hidden_act: Activation = "gelu"
    norm_type: Literal["layer_norm", "rms_norm"] = "rms_norm"
    layer_norm_eps: Positive = 1e-6
    qkv_bias: bool = False
    qk_normalization: bool = True
    attention_dropout: Share = 0.0
    dropout: Share = 0.0
    drop_path_rate: Share = 0.0
    initializer_range: Positive = 0.02
    initializer_factor: Positive = 0.1
    use_moe: Literal[False] = False

    def to_native(self) -> dict[str, Any]:
        """Return the arguments of InternVLVisionConfig; drop_path_rate acts in training only and has no counterpart."""
        same = {
            "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size",
            "num_channels", "hidden_act", "norm_type", "layer_norm_eps", "attention_dropout", "initializer_range",
        }  # fmt: skip
        return {
            **self.model_dump(include=same),
            "attention_bias": self.qkv_bias,
            "use_qk_norm": self.qk_normalization,
            "projection_dropout": self.dropout,
            "layer_scale_init_value": self.initializer_factor,
            "use_mean_pooling": True,
            "hidden_dropout_prob": 0.0,
        }


class ChatConfig(ConfigSection):
    """The whole of config.json."""

    vision_config: VisionConfig
    llm_config: TextConfig
    downsample_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    force_image_size: Count | None = None
    dynamic_image_size: bool = False
    use_thumbnail: bool = False
    min_dynamic_patch: Count = 1
    max_dynamic_patch: Count = 6
    pad2square: bool = False
    ps_version: str = "v1"
    select_layer: int = -1
    template: str
    system_message: str | None = None
    use_backbone_lora: Annotated[int, Field(ge=0)] | bool = 0
    use_llm_lora: Annotated[int, Field(ge=0)] | bool = 0
    quantization_config: Any = None

    @property
    def image_size(self) -> int:
        """The side of a tile in pixels."""
        return self.force_image_size or self.vision_config.image_size

    @property
    def tiles(self) -> int:
        """How many tiles an image may be split into, thumbnail aside; 1 means none."""
        return self.max_dynamic_patch if self.dynamic_image_size else 1

    def problems(self) -> Iterator[str]:
        """Yield every setting that the native model cannot express."""
        vision, text = self.vision_config, self.llm_config
        if self.ps_version != "v2":
            reason = "the projector would see its image transposed; only v2 can be expressed"
            yield f"ps_version {self.ps_version!r} ({reason})"
        if self.pad2square:
            yield "pad2square true (the native processor cannot pad)"
        if self.tiles > 1 and not self.use_thumbnail:
            yield "use_thumbnail false with tiling (the native processor always adds the thumbnail)"
        for key in ("use_backbone_lora", "use_llm_lora"):
            if value := getattr(self, key):
                yield f"{key} {value} (an adapter that is not merged: merge it with the original code first)"
        if self.quantization_config or (text.model_extra or {}).get("quantization_config"):
            yield "quantization_config (give the unquantised checkpoint)"
        if vision.qk_normalization and vision.layer_norm_eps != 1e-6:
            yield f"qk_normalization with layer_norm_eps {vision.layer_norm_eps} (native uses 1e-06)"
        if not -vision.num_hidden_layers - 1 <= self.select_layer <= vision.num_hidden_layers:
            yield f"select_layer {self.select_layer} (the vision tower has {vision.num_hidden_layers} layers)"
        if vision.hidden_size % vision.num_attention_heads:
            heads = vision.num_attention_heads
            yield f"vision_config.hidden_size {vision.hidden_size} does not divide into {heads} heads"
        side = self.image_size // vision.patch_size
        if 1 / self.downsample_ratio % 1 or not side or side * self.downsample_ratio % 1:
            yield f"a tile of {side} x {side} patches does not shrink by downsample_ratio {self.downsample_ratio}"
        yield from text.problems()
        for name, section in (("vision_config", vision), ("llm_config", text)):
            for key in section.not_read():
                if key != "quantization_config":
                    yield f"{name}.{key} {section.model_extra[key]!r} (it is not read and may decide the result)"  # type: ignore[index]


def read_original(config: Config, place: str) -> Architecture:
    """Read the original layout's config.json; raise UserError naming every setting that cannot be converted at once."""
    text_config = config.get("llm_config")
    for section in ("vision_config", "llm_config"):
        if not isinstance(config.get(section), dict):
            raise UserError(f"has no {section}", place=place, remedy="give a checkpoint as OpenGVLab published it")
    named = text_config.get("architectures") if isinstance(text_config, dict) else None
    name = named[0] if isinstance(named, list) and named else named
    if name not in TEXT_CONFIGS:
        raise unknown_kind(f"unknown language model {name!r}", name, place, TEXT_CONFIGS)
    try:
        # Validated as JSON objects: the section's class depends on the language model.
        chat = ChatConfig.model_validate(
            {
                **config,
                "vision_config": VisionConfig.model_validate(config["vision_config"]),
                "llm_config": TEXT_CONFIGS[name].model_validate(text_config),
            }
        )
    except ValidationError as error:
        raise UserError("; ".join(_sentences(error)), place=place, remedy="download it again") from None
    if problems := list(chat.problems()):
        problem = "cannot be converted: " + "; ".join(problems)
        raise UserError(problem, place=place, remedy=f"see {TABLE} for what a base may be")
    vision, text = chat.vision_config, chat.llm_config
    return Architecture(
        layout="original",
        language_model=str(name),
        rows=text.vocab_size,
        heads=text.num_attention_heads,
        key_heads=text.key_heads,
        tied=text.tie_word_embeddings,
        settings={
            "vision_config": vision.to_native(),
            "text_config": text.to_native(),
            "downsample_ratio": chat.downsample_ratio,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": chat.select_layer,
            "vision_feature_select_strategy": "default",
        },
        dtype=first(chat.torch_dtype, chat.dtype, text.torch_dtype, text.dtype),
        image_size=chat.image_size,
        tokens_per_tile=tokens_of(chat.image_size, vision.patch_size, chat.downsample_ratio),
        template=chat.template,
        system_message=chat.system_message,
        min_tiles=min(chat.min_dynamic_patch, chat.tiles),
        tiles=chat.tiles,
        drop_path_rate=vision.drop_path_rate,
    )


def _sentences(error: ValidationError) -> Iterator[str]:
    section = {"VisionConfig": "vision_config.", "ChatConfig": ""}.get(error.title, "llm_config.")
    for item in error.errors():
        key = section + ".".join(str(part) for part in item["loc"] if isinstance(part, str))
        if item["type"] == "missing":
            yield f"has no {key}"
        else:
            yield f"{key} {item['input']!r}: {item['msg']}"
