"""Build the tiny InternVL that the sample is trained on: InternVL2's architecture with small sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
)
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

from emoverse.config import MediaParams

WIDTH: Final = 64
VISION_LAYERS: Final = 2
TEXT_LAYERS: Final = 4
ROPE_THETA: Final = 100.0
"""Base of the rotary embedding. Qwen2's 1,000,000 is for long contexts: of a head's 16 dimensions it leaves two to tell
neighbouring tokens apart."""
EMBEDDING_STD: Final = 0.5
RESIDUAL_SCALE: Final = 0.1
"""Scale of the matrices that write to the residual stream, attention's and the MLP's output."""
OUTPUT_SCALE: Final = 0.25
"""Of the embedding, to the output layer's first weights: logits of about 1."""
PREVIOUS_STRENGTH: Final = 4.0
DOWNSAMPLE: Final = 0.5
MEAN: Final = 0.5
STD: Final = 0.25
"""How pixels in 0..1 are normalised; not ImageNet's 0.22-0.23 a channel, as the sample's frames are grey."""
GRID: Final = 4
"""Patches along a side: InternVL2 has 32; pixel shuffle halves it, so a frame becomes GRID² / 4 tokens."""


def tokens_per_frame() -> int:
    """Return how many image tokens a frame becomes."""
    return int(GRID * GRID * DOWNSAMPLE**2)


def build_model(tokenizer: Any, media: MediaParams, seed: int) -> Any:
    """Build the model with weights drawn from a seed; ``media.size`` is the side of its frames in pixels.

    Every matrix is drawn with standard deviation 1/sqrt(fan in): transformers' 0.02 suits wide models, and a vision
    tower this narrow does not learn from it. The language model begins with what copying needs, which takes training
    from other weights longest: what a layer adds is small beside the token's own embedding, the output layer begins as
    the embedding, and three heads of the first layer attend to the tokens before (`_attend_to_previous`).

    Raises:
        ValueError: The frame does not divide into patches.
    """
    if media.size % GRID:
        raise ValueError(f"frames of {media.size} px do not divide into {GRID} x {GRID} patches")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = InternVLForConditionalGeneration(_config(tokenizer, media.size))
        for name, tensor in model.named_parameters():
            _draw(name, tensor)
        with torch.no_grad():
            model.lm_head.weight.copy_(model.get_input_embeddings().weight * OUTPUT_SCALE)
            _attend_to_previous(model.model.language_model.layers[0].self_attn)
    model.generation_config.update(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None, do_sample=False
    )
    return model.float()


def _draw(name: str, tensor: Any) -> None:
    with torch.no_grad():
        if "embed_tokens" in name:
            tensor.normal_(0.0, EMBEDDING_STD)
        elif "position_embeddings" in name or "cls_token" in name:
            tensor.normal_(0.0, 0.02)
        elif tensor.ndim >= 2:
            scale = RESIDUAL_SCALE if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            tensor.normal_(0.0, scale / math.sqrt(tensor[0].numel()))


def _attend_to_previous(attention: Any) -> None:
    """Let head h attend mostly to the token h + 1 places before, for the first three heads.

    Constant queries and keys, set by the biases, become a function of the distance alone once the rotary embedding has
    turned them: the sum of cos(frequency * (distance - wanted)) over the three highest frequencies. Looking something
    up in a context is built on such heads (induction heads, arXiv 2209.11895).
    """
    head_dim, half = attention.head_dim, attention.head_dim // 2
    frequencies = ROPE_THETA ** (-torch.arange(half) / half)
    strength = torch.where(torch.arange(half) < 3, PREVIOUS_STRENGTH, 0.0)
    keys, queries = attention.k_proj.bias.view(-1, head_dim), attention.q_proj.bias.view(-1, head_dim)
    weights = attention.q_proj.weight.view(-1, head_dim, attention.q_proj.in_features)
    for head in range(3):
        keys[head // attention.num_key_value_groups, :half] = strength
        queries[head, :half] = strength * torch.cos(frequencies * (head + 1))
        queries[head, half:] = -strength * torch.sin(frequencies * (head + 1))
        weights[head] *= 0.1  # at first the distance decides, not the tokens


def _config(tokenizer: Any, size: int) -> Any:
    vision = {
        "architectures": ["InternVLVisionModel"],
        "hidden_size": WIDTH,
        "num_hidden_layers": VISION_LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": WIDTH * 4,
        "image_size": [size, size],
        "patch_size": [size // GRID, size // GRID],
        "attention_bias": True,
        "layer_scale_init_value": 1.0,
        "use_mean_pooling": True,
    }
    text = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": WIDTH * 3,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return InternVLConfig(
        dtype="float32",
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=tokens_per_frame(),
        downsample_ratio=DOWNSAMPLE,
        tie_word_embeddings=False,
    )


def build_processor(tokenizer: Any, media: MediaParams) -> Any:
    """Build the processor: one tile per image and every frame of a video, as frames have the model's resolution."""
    pixels = {
        "size": {"height": media.size, "width": media.size},
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
    }
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(**pixels, crop_to_patches=True, min_patches=1, max_patches=1),
        video_processor=InternVLVideoProcessor(**pixels, do_sample_frames=False),
        tokenizer=tokenizer,
        image_seq_length=tokens_per_frame(),
        chat_template=tokenizer.chat_template,
    )


def save_folder(model: Any, processor: Any, folder: Path) -> None:
    """Write a model folder that `from_pretrained` reads offline: weights, tokenizer, chat template, processors."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


VOCABULARY: Final = 2816
SPECIAL: Final = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>",
    "</ref>", "<box>", "</box>", "<video>",
)  # fmt: skip
"""InternVL2-1B's added tokens, and <video>, which transformers' processor requires to be one token."""

_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 splits text into words before merging."""

_TEMPLATE: Final = Path(__file__).with_name("chat_template.jinja")


def train_tokenizer(texts: Iterable[str], size: int = VOCABULARY) -> Any:
    """Train a byte-level BPE of ``size`` entries, special tokens included, and return it as transformers' tokenizer.

    The same texts in the same order give the same tokenizer. Any text can be encoded: all 256 bytes are included.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL), initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
        chat_template=_TEMPLATE.read_text("utf-8"),
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
