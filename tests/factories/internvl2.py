"""Original-format InternVL2 checkpoints made from nothing: config, weights, tokenizer files."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Shapes = dict[str, tuple[int, ...]]
SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
]
SLOW_TOKENIZERS = {"internlm2": "InternLM2Tokenizer", "internlm3": "InternLM3Tokenizer"}
EATS_SPACE = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
KINDS = {
    "qwen2": "Qwen2ForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "internlm3": "InternLM3ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
TEMPLATES = {"qwen2": "Hermes-2", "internlm2": "internlm2-chat", "phi3": "phi3-chat", "llama": "internlm2-chat"}
"""InternVL2's; InternVL2.5, 3 and 3.5 have "internvl2_5" throughout."""


def config(
    kind: str, *, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **whole: Any
) -> dict[str, Any]:
    """Return a tiny config.json of one backbone; ``text``, ``vision`` and ``whole`` override single settings."""
    llm: dict[str, Any] = {
        "architectures": [KINDS[kind]],
        "model_type": kind,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": 256 + 3 + len(SPECIAL),
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    heads = {"head_dim": 24, "attention_bias": False}
    own: dict[str, dict[str, Any]] = {
        "internlm2": {"bias": False},
        "internlm3": {"bias": False, "qkv_bias": False, "head_dim": 16},
        "phi3": {"original_max_position_embeddings": 4096, "pad_token_id": 2},
        "qwen3": heads,
        "qwen3_moe": {
            **heads, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "norm_topk_prob": True,
            "decoder_sparse_step": 1, "mlp_only_layers": [0],
        },
    }  # fmt: skip
    llm.update(own.get(kind, {}))
    vit = {
        "model_type": "intern_vit_6b",
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 56,
        "patch_size": 14,
        "norm_type": "layer_norm",
        "qkv_bias": True,
        "qk_normalization": False,
        "layer_norm_eps": 1e-6,
        "drop_path_rate": 0.1,
        "initializer_factor": 1.0,
    }
    return {
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "model_type": "internvl_chat",
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": vit["image_size"],
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": TEMPLATES.get(kind, "internvl2_5"),
        "torch_dtype": "float32",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        **whole,
        "vision_config": {**vit, **(vision or {})},
        "llm_config": {**llm, **(text or {})},
    }


def shapes(c: dict[str, Any]) -> Shapes:
    """List every tensor of the original model with its shape."""
    v, t = c["vision_config"], c["llm_config"]
    wide, deep = v["hidden_size"], int(v["hidden_size"] * (1 / c["downsample_ratio"]) ** 2)
    side, hidden = v["image_size"] // v["patch_size"], t["hidden_size"]
    found: Shapes = {
        "vision_model.embeddings.class_embedding": (1, 1, wide),
        "vision_model.embeddings.position_embedding": (1, side * side + 1, wide),
        "vision_model.embeddings.patch_embedding.weight": (wide, 3, v["patch_size"], v["patch_size"]),
        "vision_model.embeddings.patch_embedding.bias": (wide,),
        **_linear("mlp1.1", hidden, deep),
        **_linear("mlp1.3", hidden, hidden),
        "mlp1.0.weight": (deep,),
        "mlp1.0.bias": (deep,),
        "language_model.model.norm.weight": (hidden,),
    }
    for layer in range(v["num_hidden_layers"]):
        base = f"vision_model.encoder.layers.{layer}."
        found |= _linear(base + "attn.qkv", 3 * wide, wide, bias=v["qkv_bias"]) | _linear(
            base + "attn.proj", wide, wide
        )
        found |= _linear(base + "mlp.fc1", v["intermediate_size"], wide) | _linear(
            base + "mlp.fc2", wide, v["intermediate_size"]
        )
        norms = ["norm1", "norm2"]
        found |= {f"{base}{norm}.weight": (wide,) for norm in norms} | {f"{base}ls{i}": (wide,) for i in (1, 2)}
        if v["norm_type"] == "layer_norm":
            found |= {f"{base}{norm}.bias": (wide,) for norm in norms}
        if v["qk_normalization"]:
            found |= {f"{base}attn.{x}_norm.weight": (wide,) for x in "qk"}
    internlm2 = t["architectures"][0] == KINDS["internlm2"]
    embed, head = ("model.tok_embeddings", "output") if internlm2 else ("model.embed_tokens", "lm_head")
    found[f"language_model.{embed}.weight"] = (t["vocab_size"], hidden)
    if not t["tie_word_embeddings"]:
        found[f"language_model.{head}.weight"] = (t["vocab_size"], hidden)
    for layer in range(t["num_hidden_layers"]):
        found |= {f"language_model.model.layers.{layer}.{name}": shape for name, shape in _block(t, layer).items()}
    return found


def _linear(name: str, rows: int, columns: int, *, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}


def _block(t: dict[str, Any], layer: int) -> Shapes:
    hidden, inner, heads, keys = (
        t[k] for k in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    )
    size = t.get("head_dim") or hidden // heads
    if t["architectures"][0] == KINDS["internlm2"]:
        found = _linear("attention.wqkv", (heads + 2 * keys) * size, hidden, bias=t["bias"])
        found |= _linear("attention.wo", hidden, hidden, bias=t["bias"])
        found |= {f"feed_forward.{w}.weight": (inner, hidden) for w in ("w1", "w3")} | {
            "feed_forward.w2.weight": (hidden, inner)
        }
        return found | {"attention_norm.weight": (hidden,), "ffn_norm.weight": (hidden,)}
    found = {"self_attn.o_proj.weight": (hidden, hidden), "mlp.down_proj.weight": (hidden, inner)}
    found |= {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    if t["architectures"][0] == KINDS["phi3"]:
        both = {
            "self_attn.qkv_proj.weight": ((heads + 2 * keys) * size, hidden),
            "mlp.gate_up_proj.weight": (2 * inner, hidden),
        }
        return found | both
    bias = t["architectures"][0] == KINDS["qwen2"] or bool(t.get("qkv_bias"))
    for x, rows in (("q", heads * size), ("k", keys * size), ("v", keys * size)):
        found |= _linear(f"self_attn.{x}_proj", rows, hidden, bias=bias)
    found["self_attn.o_proj.weight"] = (hidden, heads * size)
    if "Qwen3" in t["architectures"][0]:
        found |= {f"self_attn.{x}_norm.weight": (size,) for x in "qk"}
    if t.get("bias"):
        found |= {"self_attn.o_proj.bias": (hidden,), "mlp.down_proj.bias": (hidden,)}
        found |= {f"mlp.{x}_proj.bias": (inner,) for x in ("gate", "up")}
    if "num_experts" not in t or layer in t["mlp_only_layers"]:
        return found | {f"mlp.{x}_proj.weight": (inner, hidden) for x in ("gate", "up")}
    del found["mlp.down_proj.weight"]
    inner = t["moe_intermediate_size"]
    for expert in range(t["num_experts"]):
        found |= {f"mlp.experts.{expert}.{x}_proj.weight": (inner, hidden) for x in ("gate", "up")}
        found[f"mlp.experts.{expert}.down_proj.weight"] = (hidden, inner)
    return found | {"mlp.gate.weight": (t["num_experts"], hidden)}


def weights(c: dict[str, Any], *, seed: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """Draw random weights, sized so that logits spread by about one."""
    dtype, generator = getattr(torch, c["torch_dtype"]), torch.Generator().manual_seed(seed)
    for name, shape in shapes(c).items():
        value = torch.randn(shape, generator=generator, dtype=torch.float32)
        if "norm" in name or name == "mlp1.0.weight" or ".ls" in name:
            value = 1.0 + 0.1 * value if not name.endswith("bias") else 0.1 * value
        elif len(shape) > 1 and "embedding" not in name:
            value *= 1.5 / math.sqrt(math.prod(shape[1:]))
        elif len(shape) == 1:
            value *= 0.1
        yield name, value.to(dtype)


def write_weights(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]], *, shards: int = 1) -> None:
    """Write the weights as one file, or as ``shards`` files with an index."""
    every = list(tensors)
    step = math.ceil(len(every) / shards)
    parts = [dict(every[start : start + step]) for start in range(0, len(every), step)]
    names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    for name, part in zip(names if shards > 1 else ["model.safetensors"], parts, strict=True):
        save_file(part, folder / name, metadata={"format": "pt"})
    if shards > 1:
        _index(folder, {key: name for name, part in zip(names, parts, strict=True) for key in part})


def write_large_weights(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]], *, limit: int) -> int:
    """Write shards of about ``limit`` bytes without holding more than one; return how many there are."""
    part: dict[str, torch.Tensor] = {}
    where: list[list[str]] = []

    def flush() -> None:
        where.append(list(part))
        save_file(part, folder / f"{len(where)}.tmp", metadata={"format": "pt"})
        part.clear()

    for name, tensor in tensors:
        part[name] = tensor
        if sum(t.numel() * t.element_size() for t in part.values()) > limit:
            flush()
    if part:
        flush()
    names = [f"model-{i + 1:05d}-of-{len(where):05d}.safetensors" for i in range(len(where))]
    for i, name in enumerate(names):
        (folder / f"{i + 1}.tmp").rename(folder / name)
    _index(folder, {key: name for name, keys in zip(names, where, strict=True) for key in keys})
    return len(where)


def _index(folder: Path, where: dict[str, str]) -> None:
    text = json.dumps({"metadata": {}, "weight_map": where})
    (folder / "model.safetensors.index.json").write_text(text, "utf-8")


def write_checkpoint(folder: Path, c: dict[str, Any], *, seed: int = 0, shards: int = 1) -> Path:
    """Write a whole original folder (with byte-level or sentencepiece tokenizer files as its backbone has them)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(c, indent=1), "utf-8")
    write_weights(folder, weights(c, seed=seed), shards=shards)
    write_tokenizer(folder, c)
    return folder


def write_tokenizer(folder: Path, c: dict[str, Any]) -> None:
    """Write the tokenizer files: 256 bytes and three control pieces, words to fill up, and the special tokens last."""
    kind = next(k for k, v in KINDS.items() if v == c["llm_config"]["architectures"][0])
    first = max(259, c["llm_config"]["vocab_size"] - len(SPECIAL))
    words = [f"word{i}" for i in range(first - 259)]
    flags = {"lstrip": False, "normalized": False, "single_word": False, "special": True}
    added = {str(first + i): {"content": text, "rstrip": text in EATS_SPACE, **flags} for i, text in enumerate(SPECIAL)}
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    if kind.startswith("qwen"):
        characters = [*_byte_characters(), "<unk>", "<s>", "</s>", *words]
        vocabulary = {character: i for i, character in enumerate(characters)}
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n", "utf-8")
        own = {"tokenizer_class": "Qwen2Tokenizer"}
    else:
        (folder / "tokenizer.model").write_bytes(_sentencepiece(words, dummy_prefix=kind not in SLOW_TOKENIZERS))
        added = {str(i): {"content": text, "rstrip": False, **flags} for i, text in enumerate(("<unk>", "<s>"))} | added
        own = {"tokenizer_class": SLOW_TOKENIZERS.get(kind, "LlamaTokenizer"), "legacy": False}
    settings = {"added_tokens_decoder": added, "additional_special_tokens": SPECIAL, **named, **own}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False), "utf-8")


def _byte_characters() -> list[str]:
    """Return the character that byte-level pairs use for each byte, as GPT-2 defined them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def _sentencepiece(words: list[str], *, dummy_prefix: bool) -> bytes:
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((f"<0x{byte:02X}>", 6) for byte in range(256))]
    pieces += [(word, 1) for word in words]
    model = b"".join(_field(1, _field(1, text.encode()) + _number(3, kind)) for text, kind in pieces)
    model += _field(2, _number(3, 2) + _number(35, 1))
    return model + _field(3, _field(1, b"identity") + _number(3, int(dummy_prefix)) + _number(4, 0))


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
