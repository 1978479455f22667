"""An export that does not fit into memory is refused before anything is loaded, with a batch size that fits."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from emoverse.config import load_params
from emoverse.errors import UserError
from emoverse.export.export import memory_available, memory_needed, require_memory
from emoverse.profiles import profile_text
from tests.factories.answering import EXPORT

GIB = 1 << 30
# InternVL2-4B's language model (Phi-3-mini) and a row of 8 frames
PHI3 = {"num_hidden_layers": 32, "hidden_size": 3072, "num_attention_heads": 32, "num_key_value_heads": 32,
        "vocab_size": 32_064}  # fmt: skip
TOKENS = 2500


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Write a model folder whose weights are few and whose config is InternVL2-4B's."""
    (tmp_path / "config.json").write_text(json.dumps({"text_config": PHI3}))
    save_file({"lm_head.weight": np.zeros((1000, 1000), np.float16)}, tmp_path / "model.safetensors")
    return tmp_path


def test_a_batch_of_32_takes_what_the_cache_of_its_shapes_takes(model: Path) -> None:
    cache = 32 * 2 * 32 * 3072 * 4 * TOKENS  # rows, keys and values, layers, width, bytes, tokens
    assert cache == pytest.approx(63 * 1e9, rel=0.01)
    needed = memory_needed(model, EXPORT, TOKENS)
    assert needed > 2 * cache, "appending a token copies the cache"
    assert needed < 3 * cache
    assert memory_needed(model, replace(EXPORT, batch_size=1), TOKENS) < 8 * GIB


def test_the_remedy_names_the_largest_batch_that_fits(model: Path) -> None:
    with pytest.raises(
        UserError, match=r"export: fp32 needs about \d+\.\d GiB of memory, 30\.0 GiB are avail"
    ) as caught:
        require_memory(model, EXPORT, TOKENS, available=30 * GIB)
    size = re.search(r"set export.batch_size to (\d+)", str(caught.value))
    assert size is not None
    require_memory(model, replace(EXPORT, batch_size=int(size[1])), TOKENS, available=30 * GIB)
    with pytest.raises(UserError):
        require_memory(model, replace(EXPORT, batch_size=int(size[1]) + 1), TOKENS, available=30 * GIB)


def test_where_no_batch_fits_the_remedy_is_a_larger_machine(model: Path) -> None:
    with pytest.raises(UserError, match=r"export on a machine with .* GiB of free memory"):
        require_memory(model, replace(EXPORT, batch_size=1), TOKENS, available=GIB)


def test_what_is_available_is_asked_of_the_system(model: Path) -> None:
    assert GIB // 4 < memory_available() < 1 << 50
    with pytest.raises(UserError, match="are available"):
        require_memory(model, replace(EXPORT, batch_size=1 << 20), TOKENS)


@pytest.mark.parametrize("name", ["internvl2-4b", "internvl2-8b", "fast"])
def test_the_profiles_of_real_models_compare_few_rows_at_a_time(name: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(profile_text(name), "utf-8")
    export = load_params(tmp_path / "params.yaml").export
    assert export.batch_size <= 4
    assert export.precision == ("fp16",)
