"""Write ONNX graphs in fp32, fp16, int8 and int4."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from emoverse.config import ExportParams, Precision
from emoverse.errors import UserError
from emoverse.export.graphs import write_graphs
from emoverse.inference.onnx_engine import GRAPHS
from emoverse.inference.torch_engine import load_model

BITS: Final = {"int8": 8, "int4": 4}


def write_all(model: Path, out: Path, params: ExportParams) -> dict[str, Any]:
    """Write the graphs of a model folder in every precision of ``params``, the first into ``out`` itself.

    The others go into folders named after them. Half precision is traced from the model in half, so that norms stay in
    float32 as transformers computes them; 8 and 4 bits start from float32. Returns the decoder's sizes, as
    `write_graphs` does.
    """
    full, decoder = out / ".fp32", {}
    if {"fp32", *BITS} & set(params.precision):
        full.mkdir()
        decoder = write_graphs(load_model(model), full, params.one_file)
    for name, folder in folders(out, params.precision).items():
        folder.mkdir(exist_ok=True)
        if name == "fp16":
            decoder = write_graphs(load_model(model).to(torch.float16), folder, params.one_file)
        elif name in BITS:
            quantise(full, folder, BITS[name], params.one_file)
        else:
            shutil.copytree(full, folder, dirs_exist_ok=True)
    shutil.rmtree(full, ignore_errors=True)
    return decoder


def folders(out: Path, precisions: Sequence[Precision]) -> dict[Precision, Path]:
    """Return the folder of each precision's graphs: the first is ``out`` itself."""
    return {name: out if number == 0 else out / name for number, name in enumerate(precisions)}


def check(params: ExportParams) -> None:
    """Raise UserError unless every precision is named once and has a tolerance."""
    if not params.precision or len(set(params.precision)) != len(params.precision):
        problem = f"{list(params.precision)} names none or one twice"
        raise UserError(problem, place="export.precision", remedy="name each precision once")
    for name in params.precision:
        if name not in params.tolerance:
            raise UserError(f"{name} has no tolerance", place="export.tolerance", remedy="add one to params.yaml")


BLOCK: Final = 32  # weights that share a scale


def quantise(source: Path, target: Path, bits: int, one_file: int) -> None:
    """Write the graphs of a float32 folder with linear layers quantised, symmetric, one scale a block.

    The vision encoder stays at 8 bits: it is small, and quantisation costs it more. The embedding table is looked up,
    not multiplied, so it is stored in float16.

    Args:
        source: Folder with the float32 graphs.
        target: Folder to write to.
        bits: 8 or 4.
        one_file: Bytes of weights from which a graph stores them in ``<name>.data`` beside it.
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
    logging.disable(logging.INFO)  # it logs every layer
    try:
        quantizer.process()
    finally:
        logging.disable(logging.NOTSET)
    return quantizer.model.model


def _halve_table(model: Any) -> None:
    """Store the table of the embedding graph in float16, cast to float32 after the lookup."""
    (node,), (table,) = model.graph.node, model.graph.initializer
    assert node.op_type == "Gather"
    half = numpy_helper.from_array(numpy_helper.to_array(table).astype(np.float16), table.name)
    table.CopyFrom(half)
    (out,) = node.output
    node.output[0] = f"{out}_half"
    model.graph.node.append(helper.make_node("Cast", [f"{out}_half"], [out], to=TensorProto.FLOAT))


def save(model: Any, path: Path, one_file: int) -> None:
    """Write a graph; more than ``one_file`` bytes of weights go to ``<name>.data`` beside it."""
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > one_file:
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    else:
        onnx.save_model(model, path)
