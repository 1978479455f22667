"""A disk that fills up while a library writes weights: the path, the bytes wanted, and nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.torch import save_file

from emoverse.artifacts.manifest import publish
from emoverse.errors import UserError

FLOATS = 1 << 18  # a megabyte


def save_onnx(path: Path) -> None:
    table = numpy_helper.from_array(np.ones(FLOATS, np.float32), "table")
    graph = helper.make_graph([], "graph", [], [], [table])
    onnx.save_model(helper.make_model(graph), path, save_as_external_data=True, location=f"{path.name}.data")


WRITERS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda path: save_file({"weights": torch.ones(FLOATS)}, path),
    "torch": lambda path: torch.save({"weights": torch.ones(FLOATS)}, path),
    "onnx": save_onnx,
    "python": lambda path: path.write_bytes(bytes(4 * FLOATS)),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_disk_that_fills_at_any_tenth_of_the_output_is_named(
    make_disk: Callable[[str], Path], writer: str, tenth: int
) -> None:
    disk = make_disk(f"{4 * FLOATS * tenth // 10 // 1024}k")
    with (
        pytest.raises(UserError, match=r"out: the disk is full: [\d,]+ bytes were written and more are needed"),
        publish(disk / "out", step="base-model", params={}, inputs={}) as draft,
    ):
        WRITERS[writer](draft.path / "model")
    assert [path.name for path in disk.iterdir() if not path.name.endswith(".lock")] == []
