"""Graphs of converted InternLM2 and Phi-3 models, whose rotary frequencies change beyond a length."""

from __future__ import annotations

import json

import numpy as np
import pytest

from emoverse.export.graphs import write_graphs
from emoverse.export.parity import TOKENS, compare
from emoverse.inference.engine import Engine
from emoverse.inference.onnx_engine import OnnxBackend
from emoverse.inference.torch_engine import TorchBackend, load_model
from emoverse.models.convert import convert
from emoverse.prompt import Encoder, settings_of_model
from tests.factories.internvl2 import config, write_checkpoint

LIMIT = 64  # tokens of the original context
ROPE = {
    "internlm2": {"max_position_embeddings": LIMIT, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "phi3": {
        "max_position_embeddings": 4 * LIMIT,
        "original_max_position_embeddings": LIMIT,
        "rope_scaling": {
            "type": "su",
            "short_factor": [1.0 + 0.1 * i for i in range(8)],
            "long_factor": [5.0 + 3.0 * i for i in range(8)],
        },
    },
}


@pytest.fixture(scope="module", params=ROPE)
def pair(request, tmp_path_factory):
    """Return a converted model's two engines, torch's and its graphs'."""
    root = tmp_path_factory.mktemp(request.param)
    convert(write_checkpoint(root / "orig", config(request.param, text=ROPE[request.param])), root / "out")
    folder, graphs = root / "out" / "model", root / "graphs"
    graphs.mkdir()
    settings = settings_of_model(folder)
    decoder = write_graphs(load_model(folder), graphs)
    rng = np.random.default_rng(3)
    frames = {f"clip:{n}": rng.integers(0, 256, (n, *settings.size, 3), dtype=np.uint8) for n in (1, 2)}
    backends = (TorchBackend(load_model(folder)), OnnxBackend(graphs, decoder, settings, "cpu"))
    return tuple(Engine(one, Encoder(folder, settings), frames, batch_size=2) for one in backends)


def row(words: int, frames: int = 1):
    content = "<video>" + "ab " * words
    turns = [{"role": "system", "content": "x"}, {"role": "user", "content": content}]
    return {"messages": turns, "videos": [f"clip:{frames}"], "channel": str(words)}


def lengths(engine, rows):
    return [len(ids) for ids in engine.encoder.prompt_ids(rows, [int(row["videos"][0][-1]) for row in rows])]


def test_within_and_beyond_the_original_context_the_graphs_are_the_model(pair):
    torch_engine, onnx_engine = pair
    rows = [row(0), row(60), row(90, 2)]
    assert lengths(onnx_engine, rows)[0] <= LIMIT - TOKENS
    assert lengths(onnx_engine, rows)[1] > 2 * LIMIT
    # From short to long and one at a time: transformers keeps the frequencies of the longest sequence it has seen.
    for one in rows:
        found = compare(torch_engine, onnx_engine, [one], {})
        assert found.largest_absolute < 1e-4
        assert found.greedy_equal == found.top1_agreement == 1.0


@pytest.mark.parametrize("start", [0, LIMIT - 8, LIMIT - 7, LIMIT - 6, 2 * LIMIT])
def test_frequencies_switch_where_the_largest_position_passes_the_context(pair, start):
    ids = np.arange(16).reshape(2, 8) + 10
    mask, places, columns = np.tril(np.ones((8, 8), bool))[None, None].repeat(2, 0), np.arange(8), np.arange(8)
    positions = np.stack([places + start, places])
    one, other = (
        engine.backend.to_numpy(engine.backend.decode(ids, None, mask, positions, None, columns)[0]) for engine in pair
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_reply_that_grows_past_the_context_goes_on_like_the_model(pair):
    torch_engine, onnx_engine = pair
    words = next(n for n in range(60) if lengths(onnx_engine, [row(n)])[0] >= LIMIT - 6)
    before = lengths(onnx_engine, [row(words)])[0]
    one, other = (engine.greedy_tokens([row(words)], 24) for engine in (torch_engine, onnx_engine))
    assert before + len(other[0]) > LIMIT
    assert one == other


def test_an_answer_does_not_depend_on_a_longer_question_before_it(pair):
    _, engine = pair
    first = engine.greedy_tokens([row(40)], 8)
    engine.greedy_tokens([row(90)], 8)
    assert engine.greedy_tokens([row(40)], 8) == first
    assert json.dumps(first)
