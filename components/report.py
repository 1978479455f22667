"""The component of ``report``."""

from typing import List  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components.image import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def report(
    code: str,
    validated: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    amt: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Artifact],
    stage2: dsl.Input[dsl.Artifact],
    scores: dsl.Input[dsl.Artifact],
    onnx: dsl.Input[dsl.Artifact],
    results: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    stage1: dsl.Input[dsl.Artifact] = None,
    run: str = "",
    publish: str = "",
) -> None:
    """Write one self-contained page over all results.

    Args:
        code: Digest of the step's code; other code is refused. Empty: the image's.
        validated: What validate left, of each corpus.
        amt: The AMT dataset.
        base: The base model, with weights or without, as of all models here.
        stage2: The model after stage 2.
        scores: What evaluate left.
        onnx: What export left.
        results: The page and its data.
        page: The page alone, for the Kubeflow UI.
        stage1: The model after stage 1, unless that is the base.
        run: The run's id.
        publish: Folder of all runs' reports, on a volume. Empty: the page is put nowhere else.
    """
    import shutil
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.report import report as step
    from emoverse.report.run_pages import publish_page

    check_code("report", code)
    out = Path(results.path)
    stages = [Path(one.path) for one in (base, stage1, stage2) if one is not None]
    paths = [Path(one.path) for one in validated]
    step.report(paths, Path(amt.path), stages, Path(scores.path), Path(onnx.path), out)
    results.metadata.update(metadata_of(out))
    page.metadata.update(results.metadata)
    shutil.copyfile(out / "index.html", page.path)
    if publish:
        publish_page(out / "index.html", run, publish)
