"""Component of ``export``."""

from typing import List  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def export(
    params: dict,
    code_digest: str,
    model: dsl.Input[dsl.Model],
    amt: dsl.Input[dsl.Dataset],
    validated: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    scores: dsl.Input[dsl.Artifact],
    onnx: dsl.Output[dsl.Model],
    without_weights: dsl.Output[dsl.Artifact],
    card: dsl.Output[dsl.Markdown],
) -> None:
    """Write a model as ONNX graphs and compare them with torch.

    Args:
        params: Section export of params.yaml.
        code_digest: Digest of the step's code; the step refuses to run other code. Empty: any code.
        model: The model to export.
        amt: The AMT dataset: test rows to compare on.
        validated: Output of validate for each corpus: the frames.
        scores: Output of evaluate, for the model card.
        onnx: The graphs, the tokenizer and the measured parity.
        without_weights: A copy without weights, for steps that need only metadata.
        card: The model card.
    """
    import shutil
    from pathlib import Path

    from emoverse.cpus import limit_threads

    limit_threads()  # before torch is imported
    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.artifacts.manifest import copy_without_weights
    from emoverse.compat.kfp import section
    from emoverse.config import ExportParams
    from emoverse.errors import step_errors
    from emoverse.export import export as step

    with step_errors():
        check_code("export", code_digest)
        out = Path(onnx.path)
        step.export(
            Path(model.path),
            out,
            section(ExportParams, params, place="export"),
            amt=Path(amt.path),
            validated=[Path(corpus.path) for corpus in validated],
            scores=Path(scores.path),
        )
        onnx.metadata.update({**metadata_of(out), "display_name": "ONNX"})
        copy_without_weights(out, Path(without_weights.path))
        without_weights.metadata.update({**onnx.metadata, "display_name": "ONNX without weights"})
        card.metadata.update({**onnx.metadata, "display_name": "model card"})
        shutil.copyfile(out / "MODEL_CARD.md", card.path)
