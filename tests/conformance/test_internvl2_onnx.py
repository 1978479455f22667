"""The original code's answers on tiny checkpoints (shared data) against the graphs of the converted models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emoverse.export.graphs import write_graphs
from emoverse.inference.engine import prompt_mask
from emoverse.inference.onnx_engine import OnnxBackend
from emoverse.inference.torch_engine import TorchBackend, load_model
from emoverse.models.convert import convert
from emoverse.prompt import settings_of_model

# A position beyond the original context: InternLM2's 32768 ("dynamic"), Phi-3's 4096 ("longrope").
BEYOND = {"ilm2_gqa": 40_000, "phi3_su_short": 5_000}


@pytest.fixture(scope="module", params=BEYOND)
def exported(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a variant's name, its backends (torch's and the graphs'), and the original's answers."""
    data = shared_data / "internvl2" / request.param
    if not data.is_dir():
        pytest.skip(f"the original's answers are not at {data}")
    root = tmp_path_factory.mktemp(request.param)
    convert(data / "orig", root / "out")
    folder, graphs = root / "out" / "model", root / "graphs"
    graphs.mkdir()
    decoder = write_graphs(load_model(folder), graphs)
    backends = TorchBackend(load_model(folder)), OnnxBackend(graphs, decoder, settings_of_model(folder), "cpu")
    with np.load(data / "ref.npz") as archive:
        return request.param, backends, dict(archive)


def test_the_graphs_give_the_originals_features_logits_and_greedy_tokens(exported: Any) -> None:
    _, (_, onnx), ref = exported
    features = onnx.vision(ref["px"])
    np.testing.assert_allclose(features, ref["feat"], atol=1e-4)
    image, tokens = int(np.bincount(ref["ids"][0]).argmax()), ref["feat"].shape[1]
    ids = ref["ids"][:1][:, ref["mask"][0].astype(bool)]
    tiles = int((ids == image).sum()) // tokens
    mask, positions = prompt_mask(np.array([ids.shape[1]]), ids.shape[1])
    every = np.arange(ids.shape[1])
    logits, past = onnx.decode(ids, onnx.concatenate([features[:tiles]]), mask, positions, None, every)
    rows = ref["logits"].shape[-1]
    np.testing.assert_allclose(logits[0, :, :rows], ref["logits"][0][ref["mask"][0].astype(bool)], atol=1e-4)

    printed, seen = [], ids.shape[1]
    for _ in ref["gen"][0, 1:]:
        printed.append(int(logits[0, -1].argmax()))
        seen += 1
        see, place = np.ones((1, 1, 1, seen), np.bool_), np.array([[seen - 1]])
        logits, past = onnx.decode(np.array([[printed[-1]]]), None, see, place, past, np.array([0]))
    assert printed == ref["gen"][0, 1:].tolist()


def test_beyond_the_original_context_the_graphs_go_on_like_torch(exported: Any) -> None:
    name, backends, ref = exported
    ids = ref["labels"].clip(min=5)[:, :12]
    mask, positions = prompt_mask(np.array([12, 12]), 12)
    for start in (0, BEYOND[name]):
        both = [one.decode(ids, None, mask, positions + start, None, np.arange(12))[0] for one in backends]
        one, other = (backend.to_numpy(found) for backend, found in zip(backends, both, strict=True))
        np.testing.assert_allclose(one, other, atol=2e-4)
        assert (one.argmax(-1) == other.argmax(-1)).all()
