"""Tiny native InternVL checkpoints, made by transformers itself and laid out as the published -hf folders are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import InternVLConfig, InternVLForConditionalGeneration

from emoverse.models.tokenizers import read_vocabulary
from tests.factories.internvl2 import KINDS, config, write_tokenizer

ROWS = 300
SIDE = 56
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}{% else %}{{ content['text'] }}"
    "{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The published chat template of InternVL3-*-hf, in the same words."""

_TEXT: dict[str, dict[str, Any]] = {
    "qwen2": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "llama": {},
    "phi3": {"original_max_position_embeddings": 4096, "pad_token_id": 2},
    "qwen3": {"head_dim": 24},
    "qwen3_moe": {
        "head_dim": 24, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [0],
    },
}  # fmt: skip
NATIVE_KINDS = tuple(_TEXT)


def native_model(kind: str, *, seed: int = 0, **text: Any) -> Any:
    """Make a native model of one language model with random weights; logits spread by about one."""
    llm: dict[str, Any] = {
        "model_type": kind, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "vocab_size": ROWS,
        "rope_theta": 50000.0, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
        **_TEXT[kind], **text,
    }  # fmt: skip
    vision = {
        "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": [SIDE, SIDE], "patch_size": [14, 14], "attention_bias": True,
    }  # fmt: skip
    settings = InternVLConfig(
        vision_config=vision, text_config=llm, image_token_id=ROWS - 1, image_seq_length=4, downsample_ratio=0.5,
        tie_word_embeddings=llm["tie_word_embeddings"], dtype="float32",
    )  # fmt: skip
    torch.manual_seed(seed)
    model = InternVLForConditionalGeneration(settings).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim >= 2 and "embed" not in name:
                tensor.normal_(0.0, 1.5 / tensor[0].numel() ** 0.5)
    return model


def write_native(folder: Path, model: Any, *, shards: int = 1, new_names: bool = False) -> Path:
    """Write a folder as the published ones are: a short processor_config.json beside preprocessor_config.json.

    ``new_names`` gives the tensors the names that transformers 4.53 and later use in memory.
    """
    folder.mkdir(parents=True)
    size = "5GB" if shards == 1 else "100KB"
    model.save_pretrained(folder, max_shard_size=size)
    for path in folder.glob("*.safetensors"):
        tensors = {renamed(name) if new_names else name: tensor for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if new_names and index.is_file():
        listed = json.loads(index.read_text("utf-8"))
        listed["weight_map"] = {renamed(name): file for name, file in listed["weight_map"].items()}
        index.write_text(json.dumps(listed), "utf-8")
    text = model.config.text_config
    kind = {"llama": "internlm2"}.get(text.model_type, text.model_type)  # InternLM's is the published one of Llama's
    settings = config(kind, text={"vocab_size": ROWS, "architectures": [KINDS[kind]]})
    write_tokenizer(folder, settings)
    rebuilt = read_vocabulary(folder, ROWS)  # <video> gets the id behind the last row, as published
    rebuilt.backend.save(str(folder / "tokenizer.json"))
    for name in ("tokenizer.model", "vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    image_token = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<IMG_CONTEXT>")
    change(folder / "config.json", image_token_id=image_token)
    template = TEMPLATE
    if kind == "phi3":
        template = template.replace("<|im_start|>' + message['role']", "<|' + message['role'] + '|>'").replace(
            "<|im_end|>\n", "<|end|>"
        )
        template = template.replace("<|im_start|>assistant", "<|assistant|>")
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    processor = {"image_seq_length": 4, "processor_class": "InternVLProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(processor), "utf-8")
    pixels = {
        "image_processor_type": "GotOcr2ImageProcessorFast", "processor_class": "InternVLProcessor",
        "size": {"height": SIDE, "width": SIDE}, "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225], "crop_to_patches": False, "min_patches": 1, "max_patches": 12,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels), "utf-8")
    return folder


def renamed(name: str) -> str:
    """Return a tensor's name as transformers has it in memory."""
    if name.startswith("language_model.model."):
        return "model.language_model." + name.removeprefix("language_model.model.")
    return name.removeprefix("language_model.") if name.startswith("language_model.") else f"model.{name}"


def change(path: Path, **values: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    whole = {**json.loads(path.read_text("utf-8")), **values}
    path.write_text(json.dumps({key: value for key, value in whole.items() if value is not None}), "utf-8")
