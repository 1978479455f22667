"""The last layer at a few columns, held against transformers' own run over all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from emoverse.inference.engine import prompt_mask
from emoverse.inference.torch_engine import NarrowModel

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def backbone(kind: str, **more):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **SIZES, **more)
    return transformers.AutoModel.from_config(config, attn_implementation="sdpa").eval()


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["qwen2", "llama", "phi3"])
def test_the_columns_read_are_those_of_the_whole_model_with_and_without_a_cache(kind):
    whole, narrow = backbone(kind), NarrowModel(backbone(kind))
    assert narrow.known
    embeds = torch.randn(2, 7, SIZES["hidden_size"])
    mask, positions = prompt_mask(np.array([7, 5]), 7)
    seen = torch.zeros(mask.shape).masked_fill_(~torch.from_numpy(mask), float("-inf"))
    places, columns = torch.from_numpy(positions), torch.tensor([3, 6])
    theirs = whole(inputs_embeds=embeds, attention_mask=seen, position_ids=places, use_cache=True)

    found, past = narrow(embeds, seen, places, None, columns)
    torch.testing.assert_close(found, theirs.last_hidden_state[:, columns], rtol=1e-4, atol=1e-5)

    more, at = torch.randn(2, 1, SIZES["hidden_size"]), torch.tensor([[7], [5]])
    seen = torch.cat([seen[:, :, -1:], torch.zeros(2, 1, 1, 1)], dim=-1)
    after = whole(inputs_embeds=more, attention_mask=seen, position_ids=at, past_key_values=theirs.past_key_values)
    found, _ = narrow(more, seen, at, past, torch.tensor([0]))
    torch.testing.assert_close(found, after.last_hidden_state, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_backbone_of_another_kind_is_run_whole():
    model = backbone("qwen3", head_dim=8)
    narrow = NarrowModel(model)
    assert not narrow.known
    embeds, places = torch.randn(1, 4, SIZES["hidden_size"]), torch.arange(4)[None]
    seen = torch.zeros(1, 1, 4, 4).masked_fill_(~torch.ones(4, 4, dtype=torch.bool).tril(), float("-inf"))
    found, _ = narrow(embeds, seen, places, None, torch.tensor([1]))
    theirs = model(inputs_embeds=embeds, attention_mask=seen, position_ids=places)
    torch.testing.assert_close(found, theirs.last_hidden_state[:, [1]])
