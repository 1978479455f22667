"""Read the language model's section of InternVL's original config.json, one class for each kind of language model.

Defaults are those of the language models' own classes: an absent key means something else there than it does natively.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from emoverse.models.architecture import LANGUAGE_MODELS, TABLE, Config


def _activation(name: str) -> str:
    from transformers.activations import ACT2FN

    if name not in ACT2FN:
        raise ValueError("not the name of an activation, such as gelu or silu")
    return name


Count = Annotated[int, Field(gt=0)]
Layers = Annotated[int, Field(gt=0, le=1000)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Token = Annotated[int, Field(ge=0)]
Activation = Annotated[str, AfterValidator(_activation)]
Dtype = Literal["float64", "float32", "float16", "bfloat16"]

# What transformers writes into every config and no InternVL computes with: generation, labels, bookkeeping.
_GENERIC: Final = frozenset((
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_commit_hash",
    "_name_or_path", "add_cross_attention", "architectures", "attn_implementation", "auto_map", "bad_words_ids",
    "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward", "cross_attention_hidden_size",
    "decoder_start_token_id", "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
    "eos_token_id", "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id",
    "forced_eos_token_id", "id2label", "is_decoder", "is_encoder_decoder", "label2id", "length_penalty",
    "max_length", "min_length", "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "pad_token_id",
    "prefix", "problem_type", "pruned_heads", "remove_invalid_values", "repetition_penalty", "return_dict",
    "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
    "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "top_k", "top_p",
    "torchscript", "transformers_version", "typical_p", "use_bfloat16", "use_cache", "use_flash_attn",
))  # fmt: skip
_UNUSED: Final = frozenset((
    "ep_size", "max_window_layers", "output_router_logits", "pretraining_tp", "router_aux_loss_coef",
))  # fmt: skip


class ConfigSection(BaseModel):
    """A section of config.json, which keeps the keys that it does not know."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    unused: ClassVar[frozenset[str]] = frozenset()
    torch_dtype: Dtype | None = None
    dtype: Dtype | None = None

    def not_read(self) -> list[str]:
        """List the keys that may decide the result and have no meaning here; what is off or empty decides nothing."""
        return sorted(
            key for key, value in (self.model_extra or {}).items() if key not in _GENERIC | self.unused and value
        )


class TextConfig(ConfigSection):
    """What the language models have in common."""

    unused = _UNUSED
    rope_types: ClassVar[Mapping[str, tuple[str, ...]]] = {"default": (), "linear": ("factor",), "dynamic": ("factor",)}
    not_native: ClassVar[frozenset[str]] = frozenset()
    architectures: list[str]
    vocab_size: Count
    hidden_size: Count = 4096
    intermediate_size: Count = 11008
    num_hidden_layers: Layers = 32
    num_attention_heads: Count = 32
    num_key_value_heads: Count | None = None
    max_position_embeddings: Count = 2048
    rms_norm_eps: Positive = 1e-6
    hidden_act: Activation = "silu"
    initializer_range: Positive = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = False
    rope_theta: Positive = 10000.0
    rope_scaling: dict[str, Any] | None = None
    head_dim: Count | None = None
    layer_types: list[Literal["full_attention"]] | None = None
    bos_token_id: Token | None = None
    eos_token_id: Token | list[Token] | None = None
    pad_token_id: Token | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_rope_parameters(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Read what transformers 5 writes instead of ``rope_theta`` and ``rope_scaling``."""
        rope = values.get("rope_parameters")
        if not isinstance(rope, dict):
            return values
        rope = dict(rope)
        theta = rope.pop("rope_theta", None)
        settings = {"rope_theta": theta, "rope_scaling": None if _rope_type(rope) == "default" else rope}
        for key, value in settings.items():
            older = values.get(key)
            if older is not None and value is not None and older != value and key == "rope_theta":
                raise ValueError(f"rope_theta is {older}, in rope_parameters it is {value}")
        kept = {key: value for key, value in values.items() if key != "rope_parameters"}
        return {**kept, **{key: value for key, value in settings.items() if value is not None}}

    @property
    def key_heads(self) -> int:
        """The number of key and value heads."""
        return self.num_key_value_heads or self.num_attention_heads

    def to_native(self) -> dict[str, Any]:
        """Return the arguments of the native text config."""
        kind, name, _ = LANGUAGE_MODELS[self.architectures[0]]
        left_out = {"architectures", "vocab_size", "rope_theta", "rope_scaling", "layer_types", "torch_dtype", "dtype"}
        left_out |= self.not_native | ({"head_dim"} if self.head_dim is None else set())
        return {
            **self.model_dump(include=set(type(self).model_fields) - left_out),
            "model_type": kind,
            "architectures": [name],  # vLLM and lmdeploy choose the language model by it
            "num_key_value_heads": self.key_heads,
            "tie_word_embeddings": False,
            "rope_parameters": self.rope_parameters(),
        }

    def rope_parameters(self) -> dict[str, Any]:
        """Return the rotary embedding as transformers 5 describes it."""
        kind, scaling = _rope_type(self.rope_scaling), self.rope_scaling or {}
        carried = {key: scaling[key] for key in self.rope_types[kind]}
        return {"rope_type": kind, "rope_theta": self.rope_theta, **carried}

    def head_size(self) -> int:
        """Return the width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def problems(self) -> Iterator[str]:
        """Yield what the native model would compute otherwise."""
        kind, scaling = _rope_type(self.rope_scaling), self.rope_scaling or {}
        needed = self.rope_types.get(kind)
        if needed is None:
            yield f"rope_scaling {kind!r} (the original {self.architectures[0]} does not know it)"
        elif lacking := [key for key in needed if key not in scaling]:
            yield f"rope_scaling {kind!r} without {', '.join(lacking)}"
        else:
            yield from self.rope_problems(scaling, needed)
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            yield f"llm_config.hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} heads"
        if self.num_attention_heads % self.key_heads:
            heads = f"llm_config.num_attention_heads {self.num_attention_heads}"
            yield f"{heads} do not divide among {self.key_heads} key heads"

    def rope_problems(self, scaling: Config, needed: tuple[str, ...]) -> Iterator[str]:
        """Yield what is wrong with the values of ``rope_scaling``: each is a factor of at least 1."""
        for key in needed:
            if not _is_number(scaling[key]) or scaling[key] < 1:
                yield f"rope_scaling.{key} {scaling[key]!r} is not a number from 1 on"
        known = {"type", "rope_type", *needed}
        for key in sorted(key for key, value in scaling.items() if key not in known and value is not None):
            yield f"rope_scaling.{key} {scaling[key]!r} (it is not read and may decide the result)"


class Qwen2Text(TextConfig):
    """Qwen2 and Qwen2.5.

    InternVL3's dynamic scaling acts beyond max_position_embeddings alone, as in its published native copies.
    """

    not_native = frozenset({"sliding_window", "use_sliding_window"})
    intermediate_size: Count = 22016
    num_key_value_heads: Count | None = 32
    max_position_embeddings: Count = 32768
    attention_dropout: Share = 0.0
    use_sliding_window: bool = False
    sliding_window: Count | None = 4096

    def to_native(self) -> dict[str, Any]:
        """Return the arguments of the native text config."""
        return {**super().to_native(), "use_sliding_window": False}

    def problems(self) -> Iterator[str]:
        """Yield what the native model would compute otherwise."""
        yield from super().problems()
        if self.use_sliding_window and (self.sliding_window or 0) < self.max_position_embeddings:
            yield "use_sliding_window (the original's own attention kernels disagree about it)"


class Qwen3Text(Qwen2Text):
    """Qwen3: normalised queries and keys, heads of their own width."""

    head_dim: Count | None = 128
    attention_bias: bool = False


class Qwen3MoeText(Qwen3Text):
    """Qwen3 with a mixture of experts in place of some feed-forward layers."""

    hidden_size: Count = 2048
    intermediate_size: Count = 6144
    num_hidden_layers: Layers = 24
    num_key_value_heads: Count | None = 4
    decoder_sparse_step: Count = 1
    moe_intermediate_size: Count = 768
    num_experts: Count = 128
    num_experts_per_tok: Count = 8
    norm_topk_prob: bool = False
    mlp_only_layers: list[int] = Field(default_factory=list)


class InternLM2Text(TextConfig):
    """InternLM2 and 2.5: ``bias`` stands for queries, keys, values and the attention's output."""

    not_native = frozenset({"bias", "rope_pos_id_version"})
    bias: bool = True
    bos_token_id: Token | None = 1
    eos_token_id: Token | list[Token] | None = 2
    pad_token_id: Token | None = 0
    rope_pos_id_version: Literal["default"] = "default"

    def to_native(self) -> dict[str, Any]:
        """Return the arguments of the native text config."""
        return {**super().to_native(), "attention_bias": self.bias, "mlp_bias": False}


class InternLM3Text(TextConfig):
    """InternLM3: ``qkv_bias`` stands for queries, keys and values, ``bias`` for the other projections."""

    not_native = frozenset({"bias", "qkv_bias"})
    max_position_embeddings: Count = 32768
    num_key_value_heads: Count | None = 32
    attention_dropout: Share = 0.0
    bias: bool = False
    qkv_bias: bool = False
    bos_token_id: Token | None = 1
    eos_token_id: Token | list[Token] | None = 2

    def to_native(self) -> dict[str, Any]:
        """Return the arguments of the native text config."""
        return {**super().to_native(), "attention_bias": self.qkv_bias, "mlp_bias": self.bias}

    def problems(self) -> Iterator[str]:
        """Yield what the native model would compute otherwise."""
        yield from super().problems()
        if self.bias != self.qkv_bias:  # Llama has one switch for all four projections of the attention
            yield f"qkv_bias {self.qkv_bias} with bias {self.bias} (see {TABLE}#internlm3)"


class LlamaText(TextConfig):
    """Llama."""

    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: Share = 0.0
    bos_token_id: Token | None = 1
    eos_token_id: Token | list[Token] | None = 2


class Phi3Text(TextConfig):
    """Phi-3 and Phi-3.5: "su" and "yarn" are longrope by other names, yarn with another attention factor."""

    not_native = frozenset({"partial_rotary_factor"})
    rope_types = {"default": (), **dict.fromkeys(("su", "longrope", "yarn"), ("short_factor", "long_factor"))}
    hidden_size: Count = 3072
    intermediate_size: Count = 8192
    max_position_embeddings: Count = 4096
    original_max_position_embeddings: Count = 4096
    rms_norm_eps: Positive = 1e-5
    resid_pdrop: Share = 0.0
    embd_pdrop: Share = 0.0
    attention_dropout: Share = 0.0
    sliding_window: Count | None = None
    partial_rotary_factor: Annotated[float, Field(ge=1, le=1)] = 1.0
    bos_token_id: Token | None = 1
    eos_token_id: Token | list[Token] | None = 32000
    pad_token_id: Token | None = 32000

    def rope_parameters(self) -> dict[str, Any]:
        """Return the rotary embedding as transformers 5 describes it."""
        rope = super().rope_parameters()
        if rope["rope_type"] == "default":
            return rope
        scale = max(1.0, self.max_position_embeddings / self.original_max_position_embeddings)
        if rope["rope_type"] == "yarn":
            rope["attention_factor"] = 0.1 * math.log(scale) + 1.0
        trained = self.original_max_position_embeddings
        return {**rope, "rope_type": "longrope", "factor": scale, "original_max_position_embeddings": trained}

    def rope_problems(self, scaling: Config, needed: tuple[str, ...]) -> Iterator[str]:
        """Yield what is wrong with the two tables: each has a factor for every pair of a head's dimensions."""
        half = self.head_size() // 2
        for key in needed:
            table = scaling[key]
            if not isinstance(table, list) or len(table) != half or not all(_is_number(v) and v > 0 for v in table):
                yield (
                    f"rope_scaling.{key} is not a list of {half} numbers above 0, one for each pair of a head's "
                    "dimensions"
                )
        trained = scaling.get("original_max_position_embeddings", self.original_max_position_embeddings)
        if trained != self.original_max_position_embeddings:
            yield f"rope_scaling.original_max_position_embeddings {trained!r} differs from llm_config's"
        if scaling.get("attention_factor") is not None:
            yield f"rope_scaling.attention_factor {scaling['attention_factor']!r} (the original computes its own)"


TEXT_CONFIGS: Final[dict[str, type[TextConfig]]] = {
    "Qwen2ForCausalLM": Qwen2Text,
    "InternLM2ForCausalLM": InternLM2Text,
    "InternLM3ForCausalLM": InternLM3Text,
    "LlamaForCausalLM": LlamaText,
    "Phi3ForCausalLM": Phi3Text,
    "Qwen3ForCausalLM": Qwen3Text,
    "Qwen3MoeForCausalLM": Qwen3MoeText,
}


def _rope_type(scaling: Config | None) -> str:
    return str(scaling.get("rope_type", scaling.get("type"))) if scaling else "default"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
