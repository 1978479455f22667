"""Settings that few published InternVL2s use, against our own plain-torch account of the original code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from emoverse.models.convert import convert
from tests.factories.internvl2 import config, weights, write_checkpoint
from tests.factories.internvl2_forward import features, greedy, logits

LENGTH, TILES = 40, 3
SHORT = [1.0 + 0.1 * i for i in range(8)]
LONG = [3.0 + 1.5 * i for i in range(8)]


def phi3(kind: str, *, trained: int = 4096, **more: Any) -> dict[str, Any]:
    scaling = {"type": kind, "short_factor": SHORT, "long_factor": LONG}
    reach = {"original_max_position_embeddings": trained, "max_position_embeddings": 32 * trained}
    return {"kind": "phi3", "text": {"rope_scaling": scaling, **reach, **more}}


VARIANTS: dict[str, dict[str, Any]] = {
    "qwen2": {"kind": "qwen2"},
    "qwen2-vit-without-bias": {"kind": "qwen2", "vision": {"qkv_bias": False}},
    "qwen2-vit-qk-norm": {"kind": "qwen2", "vision": {"qk_normalization": True}},
    "qwen2-vit-6b-style": {
        "kind": "qwen2",
        "vision": {"qk_normalization": True, "norm_type": "rms_norm", "qkv_bias": False},
    },
    "qwen2-select-layer-2": {"kind": "qwen2", "select_layer": -2},
    "qwen2-select-layer-3": {"kind": "qwen2", "select_layer": -3},
    "qwen2-first-layer": {"kind": "qwen2", "select_layer": 0},
    "qwen2-last-layer-by-its-number": {"kind": "qwen2", "select_layer": 3},
    "qwen2-one-token-a-patch": {
        "kind": "qwen2",
        "downsample_ratio": 1.0,
        "vision": {"image_size": 28},
        "force_image_size": 28,
    },
    "qwen2-one-token-a-tile": {"kind": "qwen2", "downsample_ratio": 0.25},
    "qwen2-tied": {"kind": "qwen2", "text": {"tie_word_embeddings": True}},
    "internlm2": {"kind": "internlm2"},
    "internlm2-mha": {"kind": "internlm2", "text": {"num_key_value_heads": 4}},
    "internlm2-mqa": {"kind": "internlm2", "text": {"num_key_value_heads": 1}},
    "internlm2-bias": {"kind": "internlm2", "text": {"bias": True}},
    "internlm2-rope-linear": {"kind": "internlm2", "text": {"rope_scaling": {"type": "linear", "factor": 4.0}}},
    "internlm2-rope-dynamic": {
        "kind": "internlm2",
        "text": {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 16},
    },
    "phi3": {"kind": "phi3"},
    "phi3-su-short": phi3("su"),
    "phi3-su-long": phi3("su", trained=32),
    "phi3-yarn": phi3("yarn", trained=32),
    "phi3-gqa-window": phi3("su", num_key_value_heads=1, sliding_window=20),
    "llama": {"kind": "llama"},
    "qwen2-rope-dynamic": {
        "kind": "qwen2",
        "text": {"rope_scaling": {"type": "dynamic", "rope_type": "dynamic", "factor": 2.0}},
        "template": "internvl2_5",
    },
    "qwen2-rope-dynamic-beyond": {
        "kind": "qwen2",
        "text": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 16},
    },
    "internlm3": {"kind": "internlm3"},
    "internlm3-bias-dynamic": {
        "kind": "internlm3",
        "text": {
            "bias": True,
            "qkv_bias": True,
            "rope_scaling": {"rope_type": "dynamic", "factor": 6.0},
            "max_position_embeddings": 16,
        },
    },
    "qwen3": {"kind": "qwen3"},
    "qwen3-tied": {"kind": "qwen3", "text": {"tie_word_embeddings": True}},
    "qwen3-moe": {"kind": "qwen3_moe"},
    "qwen3-moe-every-layer": {"kind": "qwen3_moe", "text": {"mlp_only_layers": [], "norm_topk_prob": False}},
    "llama-mqa-linear": {
        "kind": "llama",
        "text": {"num_key_value_heads": 1, "rope_scaling": {"type": "linear", "factor": 2.0}},
    },
}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    def make(settings: dict[str, Any], *, attention: str = "eager", **written: Any) -> Any:
        from transformers import InternVLForConditionalGeneration

        folder: Path = tmp_path_factory.mktemp("internvl2")
        convert(write_checkpoint(folder / "original", settings, **written), folder / "out")
        read = InternVLForConditionalGeneration.from_pretrained
        model, info = read(folder / "out/model", attn_implementation=attention, output_loading_info=True)
        assert not any(info.values()), info
        return model.eval()

    return make


def inputs(image_token: int, tokens: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``(1, LENGTH)`` ids with the image tokens of TILES tiles in the middle, and the tiles."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 250, (1, LENGTH), generator=generator)
    ids[:, 6 : 6 + tokens * TILES] = image_token
    return ids, torch.randn(TILES, 3, size, size, generator=generator)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_converted_variant_computes_what_the_original_does(
    name: str, attention: str, load: Callable[..., Any]
) -> None:
    settings = config(**VARIANTS[name])
    model, original = load(settings, attention=attention), dict(weights(settings))
    size = settings["force_image_size"]
    ids, pixels = inputs(model.config.image_token_id, int((size // 14 * settings["downsample_ratio"]) ** 2), size)
    with torch.no_grad():
        expected = logits(original, settings, ids, pixels, model.config.image_token_id)
        found = model(input_ids=ids, pixel_values=pixels).logits
        seen = model.model.get_image_features(pixel_values=pixels).pooler_output
        written = model.generate(
            input_ids=ids,
            pixel_values=pixels,
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=None,
            use_cache=not name.endswith("beyond"),  # a cache keeps keys rotated by the frequencies of their time
        )
    assert expected.std() > 0.3  # or agreement would mean little
    torch.testing.assert_close(found[..., : expected.shape[-1]], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(seen, features(original, settings, pixels), atol=1e-4, rtol=0)
    assert written[0, LENGTH:].tolist() == greedy(original, settings, ids, pixels, model.config.image_token_id, 8)


def test_tiles_larger_than_the_vision_tower_was_trained_on_are_interpolated_alike(load: Callable[..., Any]) -> None:
    settings = config("internlm2", force_image_size=84)
    model, original = load(settings), dict(weights(settings))
    assert model.config.image_seq_length == 9
    ids, pixels = inputs(model.config.image_token_id, 9, 84)
    with torch.no_grad():
        found = model(input_ids=ids, pixel_values=pixels).logits
    expected = logits(original, settings, ids, pixels, model.config.image_token_id)
    torch.testing.assert_close(found[..., : expected.shape[-1]], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["qwen2", "internlm2", "phi3", "llama"])
def test_shards_and_half_precision_give_the_tensors_of_one_file(kind: str, load: Callable[..., Any]) -> None:
    settings = config(kind, torch_dtype="bfloat16")
    one, three = load(settings), load(settings, shards=3)
    assert one.dtype == torch.bfloat16
    assert {k: v.tolist() for k, v in one.state_dict().items()} == {
        k: v.tolist() for k, v in three.state_dict().items()
    }


def test_our_account_of_the_original_notices_a_wrong_conversion(load: Callable[..., Any]) -> None:
    # What a converter could get wrong must show up far above the tolerance, or the tests above prove nothing.
    settings = config(**VARIANTS["phi3-yarn"])
    model, original = load(settings), dict(weights(settings))
    ids, pixels = inputs(model.config.image_token_id, 4, 56)
    right = logits(original, settings, ids, pixels, model.config.image_token_id)
    wrongs = [
        {**settings, "ps_version": "v1"},
        {**settings, "select_layer": -2},
        {**settings, "llm_config": {**settings["llm_config"], "rope_scaling": None}},
        {**settings, "llm_config": {**settings["llm_config"], "sliding_window": 20}},
    ]
    for wrong in wrongs:
        assert (logits(original, wrong, ids, pixels, model.config.image_token_id) - right).abs().max() > 0.1
