"""Compile the pipeline to the YAML that Kubeflow Pipelines takes."""

from __future__ import annotations

from pathlib import Path

from kfp import compiler

from components.image import IMAGE
from emoverse.params import Params
from pipelines.arguments import presets
from pipelines.emoverse import pipeline

GOLDEN = Path(__file__).with_name("emoverse.yaml")


def compile_to(
    path: Path, params: Params, *, base: Path = Path(), image: str = IMAGE, revision: str = "", cache: bool = True
) -> None:
    """Write the compiled pipeline to ``path``, preset to ``params`` and to the ``.dvc`` files below ``base``.

    ``revision`` is the git commit that submits it, empty for a file that is committed itself. Without ``cache`` no step
    may be taken from Kubeflow's cache.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline(presets(params, base), image, revision=revision, cache=cache), str(path))
