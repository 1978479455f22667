"""Describe a checkpoint in one form, whatever its layout, and recognise its kind by config.json alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from emoverse.errors import UserError

Config = Mapping[str, Any]
Layout = Literal["original", "native"]
TABLE: Final = "docs/bases.md"
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
"""Every published InternVL normalises as ImageNet does (internvl/train/constants.py)."""

# Language model class -> (native model type, native class, row of the table in docs/bases.md).
LANGUAGE_MODELS: Final = {
    "Qwen2ForCausalLM": ("qwen2", "Qwen2ForCausalLM", "qwen2"),
    "InternLM2ForCausalLM": ("llama", "LlamaForCausalLM", "internlm2"),
    "InternLM3ForCausalLM": ("llama", "LlamaForCausalLM", "internlm3"),
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM", "llama"),
    "Phi3ForCausalLM": ("phi3", "Phi3ForCausalLM", "phi3"),
    "Qwen3ForCausalLM": ("qwen3", "Qwen3ForCausalLM", "qwen3"),
    "Qwen3MoeForCausalLM": ("qwen3_moe", "Qwen3MoeForCausalLM", "qwen3-moe"),
}
NATIVE_CLASSES: Final = {kind: name for kind, name, _ in LANGUAGE_MODELS.values()}
_ROWS: Final = {"GptOssForCausalLM": "gpt-oss", "gpt_oss": "gpt-oss"}


@dataclass(frozen=True)
class Architecture:
    """What config.json says about a model.

    ``language_model`` is the class that config.json names, ``rows`` those of its embedding, ``heads`` and ``key_heads``
    its attention heads, ``tied`` whether its output head is the embedding. ``settings`` are the arguments of
    transformers' InternVLConfig, without what depends on the tokenizer. A tile is ``image_size`` pixels square;
    ``tiles`` is how many an image may be split into, 1 for none. ``template`` is the prompt format by name, for a
    native model by the text of its chat template.
    """

    layout: Layout
    language_model: str
    rows: int
    heads: int
    key_heads: int
    tied: bool
    settings: dict[str, Any]
    dtype: str | None
    image_size: int
    tokens_per_tile: int
    template: str
    system_message: str | None = None
    min_tiles: int = 1
    tiles: int = 1
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    drop_path_rate: float = 0.0

    def native_settings(self, *, rows: int, image_token: int, dtype: str) -> dict[str, Any]:
        """Return the arguments of InternVLConfig for an embedding of ``rows`` rows."""
        return {
            **self.settings,
            "architectures": ["InternVLForConditionalGeneration"],
            "vision_config": {**self.settings["vision_config"], "dtype": dtype},
            "text_config": {
                **self.settings["text_config"],
                "vocab_size": rows,
                "tie_word_embeddings": False,
                "dtype": dtype,
            },
            "image_token_id": image_token,
            "image_seq_length": self.tokens_per_tile,
            "tie_word_embeddings": False,
            "dtype": dtype,
        }


def unknown_kind(problem: str, name: object, place: str, known: Iterable[str]) -> UserError:
    """Return the error for a model that cannot be a base, pointing at its row in the table of bases.

    Args:
        problem: What is wrong.
        name: The unknown class or model type.
        place: Path of config.json.
        known: The names that are supported.
    """
    row = _ROWS.get(str(name), "not-supported")
    remedy = f"see {TABLE}#{row}; known: {', '.join(known)}"
    return UserError(problem, place=place, remedy=remedy)


def tokens_of(image_size: int, patch_size: int, downsample_ratio: float) -> int:
    """Return how many tokens of the language model a tile becomes (256 for every published InternVL)."""
    return int((image_size // patch_size) ** 2 * downsample_ratio**2)


def first(*values: Any) -> Any:
    """Return the first value that is not None."""
    return next((value for value in values if value is not None), None)
