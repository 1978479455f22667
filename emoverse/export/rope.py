"""Write rotary embeddings whose frequencies depend on the length as arithmetic that a graph can hold."""

from __future__ import annotations

from typing import Any

import torch


class LengthRotary(torch.nn.Module):
    """Give cosines and sines as transformers' "dynamic" (InternLM2) and "longrope" (Phi-3) do, without branching.

    Frequencies switch where the largest position of the batch passes the original context. transformers remembers the
    longest "dynamic" sequence it ever saw until a short one comes; this remembers nothing, so an answer does not
    depend on what was asked before it.
    """

    def __init__(self, rotary: Any) -> None:
        super().__init__()
        rope = rotary.config.rope_parameters
        self.dynamic = rotary.rope_type == "dynamic"
        self.scaling = float(rotary.attention_scaling)
        self.inv_freq = torch.nn.Buffer(rotary.original_inv_freq.float())
        if self.dynamic:
            self.limit = int(rotary.config.max_position_embeddings)
            self.theta, self.factor = float(rope["rope_theta"]), float(rope["factor"])
        else:
            from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

            self.limit = int(rope["original_max_position_embeddings"])
            longer, _ = ROPE_INIT_FUNCTIONS["longrope"](rotary.config, torch.device("cpu"), seq_len=self.limit + 1)
            self.long = torch.nn.Buffer(longer.float())

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (batch, new, head size) cosines and sines in ``x``'s type."""
        length = position_ids.max() + 1
        beyond = self._stretched(length) if self.dynamic else self.long
        frequencies = torch.where(length > self.limit, beyond, self.inv_freq)
        angles = position_ids[..., None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * self.scaling).to(x.dtype), (angles.sin() * self.scaling).to(x.dtype)

    def _stretched(self, length: torch.Tensor) -> torch.Tensor:
        """Return the frequencies of the base that NTK scaling gives this length; within the context, the original."""
        size = 2 * self.inv_freq.numel()
        stretch = self.factor * length.clamp(min=self.limit) / self.limit - (self.factor - 1)
        base = self.theta * stretch ** (size / (size - 2))
        places = torch.arange(0, size, 2, dtype=torch.float32) / size
        return 1.0 / base**places


def unbranch(model: Any) -> None:
    """Replace a rotary embedding that branches on the length, which no graph can; leave any other."""
    language = model.model.language_model
    if language.rotary_emb.rope_type in ("dynamic", "longrope"):
        language.rotary_emb = LengthRotary(language.rotary_emb)
