"""Write a model's graphs in one precision."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from emoverse.errors import UserError
from emoverse.export.graphs import write_graphs
from emoverse.export.quantise import quantise
from emoverse.inference.torch_engine import load_model
from emoverse.params import ExportParams, Precision

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
