"""Store the weights of float32 graphs in 8 or 4 bits; activations and arithmetic stay in floating point."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from emoverse.inference.onnx_engine import GRAPHS

BLOCK: Final = 32  # weights that share a scale


def quantise(source: Path, target: Path, bits: int, one_file: int) -> None:
    """Write the graphs of a float32 folder with their linear layers in ``bits`` bits, symmetric, a scale a block.

    The eyes are small and sensitive: they keep 8 bits. The embedding table is looked up, not multiplied, so it is
    stored in float16.
    """
    for name in GRAPHS:
        model = onnx.load(source / name)
        if name == "embed.onnx":
            _halve_table(model)
        else:
            model = _in_blocks(model, 8 if name == "vision.onnx" else bits)
        save(model, target / name, one_file)


def _in_blocks(model: Any, bits: int) -> Any:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(model, bits=bits, block_size=BLOCK, is_symmetric=True, accuracy_level=1)
    with _quiet():
        quantizer.process()
    return quantizer.model.model


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the quantizer from telling of every layer."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _halve_table(model: Any) -> None:
    """Store the one table of the embedding graph in float16, cast after the look-up."""
    (node,), (table,) = model.graph.node, model.graph.initializer
    assert node.op_type == "Gather"
    half = numpy_helper.from_array(numpy_helper.to_array(table).astype(np.float16), table.name)
    table.CopyFrom(half)
    (out,) = node.output
    node.output[0] = f"{out}_half"
    model.graph.node.append(helper.make_node("Cast", [f"{out}_half"], [out], to=TensorProto.FLOAT))


def save(model: Any, path: Path, one_file: int) -> None:
    """Write a graph; weights of more than ``one_file`` bytes go to ``<name>.data`` beside it."""
    size = sum(len(one.raw_data) for one in model.graph.initializer)
    if size > one_file:
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    else:
        onnx.save_model(model, path)
