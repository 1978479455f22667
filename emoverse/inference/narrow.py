"""Run a language model's last layer at the columns somebody reads, and nowhere else.

Scoring reads the logits behind the prompt only. What the last layer's attention and feed-forward part say at the
prompt's other tokens reaches nobody: its keys and values are needed there, its outputs are not. In a model of two
layers that is nearly half of the work, in one of 24 layers a twenty-fourth.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME: Final = "emoverse_sdpa"
_PARTS: Final = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
# The backbones of InternVL2 as transformers has them; their layers are x + attention(norm(x)), then x + mlp(norm(x)).
BACKBONES: Final = ("qwen2", "llama", "phi3")


def _attention(
    module: torch.nn.Module, query: Any, key: Any, value: Any, attention_mask: Any, columns: Any = None, **more: Any
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' sdpa does, given ``columns`` from these queries alone; zeros stand at all others."""
    if columns is None:
        whole, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        return whole, None
    few, mask = query.index_select(2, columns), attention_mask.index_select(2, columns)
    found, _ = sdpa_attention_forward(module, few, key, value, mask, **more)
    whole = found.new_zeros(len(query), query.shape[2], *found.shape[2:])
    return whole.index_copy_(1, columns, found), None


class NarrowModel:
    """A language model of transformers, run layer by layer; other backbones than ``BACKBONES`` are run whole."""

    def __init__(self, language_model: Any) -> None:
        self.model = language_model
        self.known = language_model.config.model_type in BACKBONES and all(
            hasattr(layer, part) for layer in language_model.layers for part in _PARTS
        )
        if self.known:
            AttentionInterface.register(_NAME, _attention)
            AttentionMaskInterface.register(_NAME, sdpa_mask)
            language_model.config._attn_implementation = _NAME

    def __call__(
        self, embeds: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, past: Any, columns: torch.Tensor
    ) -> tuple[torch.Tensor, Any]:
        """Return the normed hidden states (batch, columns, hidden) and the cache with the new tokens appended.

        ``mask`` (batch, 1, new, past + new) is added to the scores; ``past`` is None at the beginning.
        """
        if not self.known:
            out = self.model(
                inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True
            )
            return out.last_hidden_state.index_select(1, columns), out.past_key_values
        past = DynamicCache(config=self.model.config) if past is None else past
        shared = {
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": past,
            "use_cache": True,
            "position_embeddings": self.model.rotary_emb(embeds, position_ids=positions),
        }
        hidden, layers = embeds, self.model.layers
        for layer in layers[:-1]:
            hidden = layer(hidden, **shared)
        last = layers[-1]
        told, _ = last.self_attn(hidden_states=last.input_layernorm(hidden), columns=columns, **shared)
        hidden = hidden.index_select(1, columns) + told.index_select(1, columns)
        hidden = hidden + last.mlp(last.post_attention_layernorm(hidden))
        return self.model.norm(hidden), past
