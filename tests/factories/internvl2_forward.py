"""Compute what the original InternVL computes, in plain torch, to compare converted models with.

Written after the published modelling files (InternVLChatModel, InternVisionModel, InternLM2, InternLM3, Phi-3, and
Qwen2, Qwen3, Qwen3-MoE and Llama of transformers); it shares no line with transformers or with the converter, and
reads original weights.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Weights = dict[str, Tensor]
Config = dict[str, Any]


def features(w: Weights, c: Config, pixels: Tensor) -> Tensor:
    """Return the language model's view of some tiles, ``(tiles, tokens, hidden)``; v1 leaves the grid transposed."""
    v = c["vision_config"]
    x = _embed(w, v, pixels)
    states = [x]
    for layer in range(v["num_hidden_layers"]):
        x = _vision_layer(dict(_below(w, f"vision_model.encoder.layers.{layer}.")), v, x)
        states.append(x)
    x = states[c["select_layer"]][:, 1:]
    n, side, r = len(x), math.isqrt(x.shape[1]), c["downsample_ratio"]
    x = x.reshape(n, side, int(side * r), int(x.shape[-1] / r)).permute(0, 2, 1, 3)
    x = x.reshape(n, int(side * r), int(side * r), -1)
    x = x.permute(0, 2, 1, 3) if c["ps_version"] == "v2" else x
    x = x.reshape(n, -1, x.shape[-1])
    x = F.layer_norm(x, x.shape[-1:], w["mlp1.0.weight"], w["mlp1.0.bias"])
    x = F.gelu(F.linear(x, w["mlp1.1.weight"], w["mlp1.1.bias"]))
    return F.linear(x, w["mlp1.3.weight"], w["mlp1.3.bias"])


def logits(w: Weights, c: Config, ids: Tensor, pixels: Tensor, image_token: int) -> Tensor:
    """Return ``(batch, length, vocabulary)`` logits; padding, if any, stands at the right and is attended by itself."""
    t = c["llm_config"]
    lm = dict(_below(w, "language_model."))
    embed = lm.get("model.embed_tokens.weight", lm.get("model.tok_embeddings.weight"))
    assert embed is not None
    x = embed[ids].clone()
    x[ids == image_token] = features(w, c, pixels).reshape(-1, x.shape[-1])
    cos, sin = _rotary(t, ids.shape[1])
    reach = torch.arange(ids.shape[1])[:, None] - torch.arange(ids.shape[1])
    window = t.get("sliding_window") if "Phi3" in t["architectures"][0] else None
    seen = (reach >= 0) & (reach < (window or ids.shape[1]))
    for layer in range(t["num_hidden_layers"]):
        x = _text_layer(dict(_below(lm, f"model.layers.{layer}.")), t, x, cos, sin, seen)
    x = _rms(x, lm["model.norm.weight"], t["rms_norm_eps"])
    return x @ lm.get("lm_head.weight", lm.get("output.weight", embed)).T


def greedy(w: Weights, c: Config, ids: Tensor, pixels: Tensor, image_token: int, count: int) -> list[int]:
    """Return the ``count`` likeliest next tokens, one after another."""
    for _ in range(count):
        best = logits(w, c, ids, pixels, image_token)[:, -1].argmax(-1)
        ids = torch.cat([ids, best[:, None]], 1)
    return ids[0, -count:].tolist()


def _below(w: Weights, prefix: str) -> Any:
    return ((name.removeprefix(prefix), value) for name, value in w.items() if name.startswith(prefix))


def _embed(w: Weights, v: Config, pixels: Tensor) -> Tensor:
    e = dict(_below(w, "vision_model.embeddings."))
    x = F.conv2d(pixels, e["patch_embedding.weight"], e["patch_embedding.bias"], stride=v["patch_size"])
    height, width = x.shape[-2:]
    side = v["image_size"] // v["patch_size"]
    grid = e["position_embedding"][:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    x = torch.cat([e["class_embedding"].expand(len(x), 1, -1), x.flatten(2).transpose(1, 2)], 1)
    return x + torch.cat([e["position_embedding"][:, :1], grid], 1)


def _vision_layer(w: Weights, v: Config, x: Tensor) -> Tensor:
    def norm(name: str, y: Tensor) -> Tensor:
        if v["norm_type"] == "rms_norm":
            return _rms(y, w[f"{name}.weight"], v["layer_norm_eps"])
        return F.layer_norm(y, y.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], v["layer_norm_eps"])

    q, k, value = F.linear(norm("norm1", x), w["attn.qkv.weight"], w.get("attn.qkv.bias")).chunk(3, -1)
    if v["qk_normalization"]:
        q, k = (_rms(y, w[f"attn.{n}_norm.weight"], v["layer_norm_eps"]) for n, y in (("q", q), ("k", k)))
    heads = v["num_attention_heads"]
    q, k, value = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, value))
    mixed = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ value
    x = x + F.linear(mixed.transpose(1, 2).flatten(2), w["attn.proj.weight"], w["attn.proj.bias"]) * w["ls1"]
    y = F.gelu(F.linear(norm("norm2", x), w["mlp.fc1.weight"], w["mlp.fc1.bias"]))
    return x + F.linear(y, w["mlp.fc2.weight"], w["mlp.fc2.bias"]) * w["ls2"]


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def _rotary(t: Config, length: int) -> tuple[Tensor, Tensor]:
    size, base = t.get("head_dim") or t["hidden_size"] // t["num_attention_heads"], float(t["rope_theta"])
    steps = torch.arange(0, size, 2).float() / size
    places, scaling, factor = torch.arange(length).float(), t.get("rope_scaling") or {}, 1.0
    kind, inverse = scaling.get("type", scaling.get("rope_type")), 1.0 / base**steps
    if kind == "linear":
        places = places / scaling["factor"]
    elif kind == "dynamic" and length > t["max_position_embeddings"]:
        grown = scaling["factor"] * length / t["max_position_embeddings"] - (scaling["factor"] - 1)
        inverse = 1.0 / (base * grown ** (size / (size - 2))) ** steps
    elif kind in ("su", "yarn"):
        trained = t["original_max_position_embeddings"]
        inverse = inverse / torch.tensor(scaling["long_factor" if length > trained else "short_factor"])
        scale = t["max_position_embeddings"] / trained
        if scale > 1:
            factor = math.sqrt(1 + math.log(scale) / math.log(trained)) if kind == "su" else 0.1 * math.log(scale) + 1
    angles = torch.outer(places, inverse).repeat(1, 2)
    return angles.cos() * factor, angles.sin() * factor


def _text_layer(w: Weights, t: Config, x: Tensor, cos: Tensor, sin: Tensor, seen: Tensor) -> Tensor:
    y = _rms(x, w.get("input_layernorm.weight", w.get("attention_norm.weight")), t["rms_norm_eps"])
    q, k, v = _queries_keys_values(w, t, y)
    q, k = (a * cos + torch.cat([-a[..., a.shape[-1] // 2 :], a[..., : a.shape[-1] // 2]], -1) * sin for a in (q, k))
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~seen, float("-inf"))
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    out = "attention.wo" if "attention.wo.weight" in w else "self_attn.o_proj"
    x = x + F.linear(mixed, w[f"{out}.weight"], w.get(f"{out}.bias"))
    y = _rms(x, w.get("post_attention_layernorm.weight", w.get("ffn_norm.weight")), t["rms_norm_eps"])
    if "feed_forward.w1.weight" in w:
        return (
            x
            + (F.silu(y @ w["feed_forward.w1.weight"].T) * (y @ w["feed_forward.w3.weight"].T))
            @ w["feed_forward.w2.weight"].T
        )
    if "mlp.gate.weight" in w:
        return x + _experts(w, t, y)
    if "mlp.gate_up_proj.weight" in w:
        gate, up = (y @ w["mlp.gate_up_proj.weight"].T).chunk(2, -1)
    else:
        gate, up = (F.linear(y, w[f"mlp.{n}_proj.weight"], w.get(f"mlp.{n}_proj.bias")) for n in ("gate", "up"))
    return x + F.linear(F.silu(gate) * up, w["mlp.down_proj.weight"], w.get("mlp.down_proj.bias"))


def _experts(w: Weights, t: Config, y: Tensor) -> Tensor:
    """Mix the outputs of each token's likeliest experts, one token after another."""
    out = torch.zeros_like(y)
    shares = (y @ w["mlp.gate.weight"].T).softmax(-1)
    for row, place in [(row, place) for row in range(y.shape[0]) for place in range(y.shape[1])]:
        share, chosen = shares[row, place].topk(t["num_experts_per_tok"])
        share = share / share.sum() if t["norm_topk_prob"] else share
        token = y[row, place]
        for weight, expert in zip(share, chosen.tolist(), strict=True):
            gate, up, down = (w[f"mlp.experts.{expert}.{n}_proj.weight"] for n in ("gate", "up", "down"))
            out[row, place] += weight * (down @ (F.silu(gate @ token) * (up @ token)))
    return out


def _queries_keys_values(w: Weights, t: Config, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    heads, keys = t["num_attention_heads"], t["num_key_value_heads"]
    size = t.get("head_dim") or t["hidden_size"] // heads
    if "attention.wqkv.weight" in w:
        # einops: "b q (h gs d) -> b q h gs d", the last two of each group being its key and its value
        every = F.linear(y, w["attention.wqkv.weight"], w.get("attention.wqkv.bias"))
        every = every.unflatten(-1, (keys, heads // keys + 2, size))
        q, k, v = every[..., :-2, :].flatten(2, 3), every[..., -2, :], every[..., -1, :]
    elif "self_attn.qkv_proj.weight" in w:
        q, k, v = (y @ w["self_attn.qkv_proj.weight"].T).split([heads * size, keys * size, keys * size], -1)
    else:
        q, k, v = (F.linear(y, w[f"self_attn.{n}_proj.weight"], w.get(f"self_attn.{n}_proj.bias")) for n in "qkv")
    q, k, v = (a.reshape(*a.shape[:2], -1, size) for a in (q, k, v))
    if "self_attn.q_norm.weight" in w:
        q, k = (_rms(a, w[f"self_attn.{n}_norm.weight"], t["rms_norm_eps"]) for n, a in (("q", q), ("k", k)))
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
