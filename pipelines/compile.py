"""Compile the pipeline to the YAML that Kubeflow Pipelines takes."""

from __future__ import annotations

from pathlib import Path

from kfp import compiler

from emoverse.params import Params
from pipelines.arguments import presets
from pipelines.emoverse import pipeline
from pipelines.options import Options

GOLDEN = Path(__file__).with_name("emoverse.yaml")


def compile_to(path: Path, params: Params, *, base: Path = Path(), options: Options | None = None) -> None:
    """Write the compiled pipeline to ``path``, preset to ``params`` and to the ``.dvc`` files below ``base``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline(presets(params, base), options), str(path))
