"""Component of ``report``."""

from typing import List  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def report(
    code_digest: str,
    validated: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    amt: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Artifact],
    stage2: dsl.Input[dsl.Artifact],
    scores: dsl.Input[dsl.Artifact],
    onnx: dsl.Input[dsl.Artifact],
    results: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    stage1: dsl.Input[dsl.Artifact] = None,
) -> None:
    """Write one self-contained page about all results.

    Args:
        code_digest: Digest of the step's code; the step refuses to run other code. Empty: any code.
        validated: Output of validate for each corpus.
        amt: The AMT dataset.
        base: The base model, with or without weights, as for all models here.
        stage2: The model after stage 2.
        scores: Output of evaluate.
        onnx: Output of export.
        results: The page and its data.
        page: The page alone, for the Kubeflow UI.
        stage1: The model after stage 1, unless that is the base.
    """
    import shutil
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.errors import step_errors
    from emoverse.report import report as step

    with step_errors():
        check_code("report", code_digest)
        out = Path(results.path)
        stages = [Path(model.path) for model in (base, stage1, stage2) if model is not None]
        corpora = [Path(corpus.path) for corpus in validated]
        step.report(corpora, Path(amt.path), stages, Path(scores.path), Path(onnx.path), out)
        results.metadata.update({**metadata_of(out), "display_name": "report data"})
        print("made from", *results.metadata["made_from"], sep="\n")
        page.metadata.update({**results.metadata, "display_name": "report"})
        shutil.copyfile(out / "index.html", page.path)
