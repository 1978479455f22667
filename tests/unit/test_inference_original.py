"""Converted InternVL2 models, held against the answers of the original code (its weights are tiny and random)."""

from __future__ import annotations

import numpy as np
import pytest

from emoverse.inference.torch_engine import TorchBackend, load_model
from emoverse.models.convert import convert
from emoverse.prompt import settings_of_model


@pytest.mark.parametrize("family", ["qwen2_gqa", "ilm2_gqa", "phi3_su_short"])
def test_the_engine_computes_what_the_original_code_computes(shared_data, tmp_path, family):
    folder = shared_data / "internvl2" / family
    convert(folder / "orig", tmp_path / "out")
    theirs = np.load(folder / "ref.npz")
    ids, real = theirs["ids"].astype(np.int64), theirs["mask"].astype(bool)
    backend = TorchBackend(load_model(tmp_path / "out" / "model"))

    features = backend.vision(theirs["px"].astype(np.float32))
    width = ids.shape[1]
    causal = np.tri(width, dtype=bool)[None] & real[:, None]
    mask = (causal | np.eye(width, dtype=bool))[:, None]
    positions = np.maximum(real.cumsum(axis=1) - 1, 0)
    found, _ = backend.decode(ids, backend.concatenate([features]), mask, positions, None, np.arange(width))

    vocabulary = theirs["logits"].shape[-1]  # converting may add a row for <video>
    np.testing.assert_allclose(features.numpy().reshape(theirs["feat"].shape), theirs["feat"], atol=1e-5)
    np.testing.assert_allclose(found.numpy()[real][:, :vocabulary], theirs["logits"][real], atol=5e-5)


def test_a_phi3_prompt_is_written_with_its_own_markers(shared_data, tmp_path):
    convert(shared_data / "internvl2" / "phi3_su_short" / "orig", tmp_path / "out")
    settings = settings_of_model(tmp_path / "out" / "model")
    assert settings.before_answer == "<|end|><|assistant|>\n"
    assert settings.with_system[1] == "<|end|><|user|>\n"
    assert settings.end == "<|end|>"
