"""Private interfaces of transformers.

- ``integrations.moe.ALL_EXPERTS_FUNCTIONS``: none of the functions registered there can be exported to ONNX with little
  memory: ``grouped_mm`` has no ONNX operator, ``batched_mm`` copies the weights of the chosen experts for each token.
- ``config._attn_implementation``: ``set_attn_implementation`` changes the attention of a loaded model, but no public
  attribute tells which it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

ALL_EXPERTS: Final = "all_experts"


def attention_of(config: Any) -> str:
    """Return the attention implementation of a loaded model, from its config."""
    return str(config._attn_implementation)


def has_experts(config: Any) -> bool:
    """Return whether a model's language model is a mixture of experts, from the model's config."""
    return bool(getattr(config.get_text_config(), "num_experts", None))


@contextmanager
def sdpa_attention(model: Any) -> Iterator[None]:
    """Run a model with sdpa for a while: flash attention takes no mask of its own for each token."""
    before = attention_of(model.config)
    if before == "sdpa":
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def all_experts(model: Any) -> Iterator[None]:
    """Have a mixture of experts compute every expert for every token, as operators that ONNX has; others are unchanged.

    The result is the same: an expert that a token does not choose has weight 0. It takes ``experts / chosen`` times the
    computation, and memory for (experts, tokens, hidden) numbers.
    """
    before = model.get_experts_implementation()
    if not has_experts(model.config):
        yield
        return
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(ALL_EXPERTS, _every_expert)
    model.set_experts_implementation(ALL_EXPERTS)
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def _every_expert(experts: Any, hidden: Any, chosen: Any, weights: Any) -> Any:
    """Return the weighted sum of the chosen experts' outputs.

    Args:
        experts: Module with ``gate_up_proj`` (experts, 2 * width, hidden) and ``down_proj`` (experts, hidden, width).
        hidden: (tokens, hidden).
        chosen: Indices of the chosen experts, (tokens, k).
        weights: Their weights, (tokens, k).
    """
    import torch

    inner = experts._apply_gate(torch.matmul(hidden[None], experts.gate_up_proj.transpose(1, 2)))
    outer = torch.matmul(inner, experts.down_proj.transpose(1, 2))  # (experts, tokens, hidden)
    numbers = torch.arange(experts.gate_up_proj.shape[0], device=hidden.device)
    shares = (weights[..., None] * (chosen[..., None] == numbers)).sum(1)  # (tokens, experts)
    return torch.einsum("eth,te->th", outer, shares.to(outer.dtype))
