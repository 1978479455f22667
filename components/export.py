"""The component of ``export``."""

from typing import List  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def export(
    params: str,
    code: str,
    model: dsl.Input[dsl.Model],
    amt: dsl.Input[dsl.Dataset],
    validated: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    scores: dsl.Input[dsl.Artifact],
    onnx: dsl.Output[dsl.Model],
    without_weights: dsl.Output[dsl.Artifact],
    card: dsl.Output[dsl.Markdown],
) -> None:
    """Write a model as ONNX graphs, checked against torch.

    Args:
        params: Section export of params.yaml, as JSON.
        code: Digest of the step's code; other code is refused. Empty: the image's.
        model: The model to export.
        amt: The AMT dataset: test rows to compare on.
        validated: What validate left, of each corpus: the frames.
        scores: What evaluate left, for the model card.
        onnx: The graphs, the tokenizer, and the parity that was measured.
        without_weights: The same but for the weights, for what reads no more.
        card: The model card.
    """
    import json
    import shutil
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.artifacts.manifest import copy_without_weights
    from emoverse.config import ExportParams, parse
    from emoverse.export import export as step

    check_code("export", code)
    out = Path(onnx.path)
    step.export(
        Path(model.path),
        out,
        parse(ExportParams, json.loads(params), place="export"),
        amt=Path(amt.path),
        validated=[Path(one.path) for one in validated],
        scores=Path(scores.path),
    )
    onnx.metadata.update(metadata_of(out))
    copy_without_weights(out, Path(without_weights.path))
    without_weights.metadata.update(onnx.metadata)
    card.metadata.update(onnx.metadata)
    shutil.copyfile(out / "MODEL_CARD.md", card.path)
