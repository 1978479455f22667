"""Write graphs in fp16, int8 and int4."""

from __future__ import annotations

import contextlib
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
    """Write the graphs of a model folder in every precision asked for, the first into ``out`` itself.

    The others go into folders of their names. Returns what a decoder's caller must know. Half precision is traced from
    the model in half, so that norms stay in float32 as transformers computes them; 8 and 4 bits start from float32.
    """
    whole, known = out / ".fp32", {}
    if {"fp32", *BITS} & set(params.precision):
        whole.mkdir()
        known = write_graphs(load_model(model), whole, params.one_file)
    for name, folder in folders(out, params.precision).items():
        folder.mkdir(exist_ok=True)
        if name == "fp16":
            known = write_graphs(load_model(model).to(torch.float16), folder, params.one_file)
        elif name in BITS:
            quantise(whole, folder, BITS[name], params.one_file)
        else:
            shutil.copytree(whole, folder, dirs_exist_ok=True)
    shutil.rmtree(whole, ignore_errors=True)
    return known


def folders(out: Path, precisions: Sequence[Precision]) -> dict[Precision, Path]:
    """Return where each precision's graphs lie below an export: the first in ``out`` itself."""
    return {name: out if number == 0 else out / name for number, name in enumerate(precisions)}


def check(params: ExportParams) -> None:
    """Raise UserError unless every precision is named once and has a tolerance."""
    if not params.precision or len(set(params.precision)) != len(params.precision):
        raise UserError(f"{list(params.precision)}", place="export.precision", remedy="name each precision once")
    for name in params.precision:
        if name not in params.tolerance:
            raise UserError(f"{name} has no tolerance", place="export.tolerance", remedy="state one in params.yaml")


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
