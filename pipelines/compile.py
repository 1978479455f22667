"""Compile the pipeline to the YAML that Kubeflow Pipelines takes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from kfp import compiler

from emoverse.errors import UserError
from emoverse.params import Params
from pipelines.arguments import presets
from pipelines.emoverse import pipeline
from pipelines.foresight import check_params
from pipelines.options import Options

GOLDEN = Path(__file__).with_name("emoverse.yaml")


def compile_to(path: Path, params: Params, *, base: Path = Path(), options: Options | None = None) -> None:
    """Write the compiled pipeline to ``path``, preset to ``params`` and to the ``.dvc`` files below ``base``."""
    options = options or Options()
    check_params(params, options)
    if path.suffix != ".yaml":
        raise UserError("no name for a pipeline", place=str(path), remedy="give --out a name that ends in .yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline(presets(params, base), options), str(path))
    path.write_text(_in_order(path.read_text("utf-8")), "utf-8")


def _in_order(compiled: str) -> str:
    """Return the YAML with the keys of its header's presets sorted: kfp writes them in another order each time."""

    def sort(found: re.Match[str]) -> str:
        return found[1] + repr([dict(sorted(item.items())) for item in ast.literal_eval(found[2])]) + "]"

    return re.sub(r"^(#    \w+: list \[Default: )(\[\{.*\}\])\]$", sort, compiled, flags=re.MULTILINE)
