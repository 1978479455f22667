"""The component of ``train``, once per stage."""

from typing import List  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    stage: str,
    params: str,
    code: str,
    model: dsl.Input[dsl.Model],
    base: dsl.Input[dsl.Model],
    amt: dsl.Input[dsl.Dataset],
    validated: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    trained: dsl.Output[dsl.Model],
) -> None:
    """Fine-tune one stage with ms-swift.

    Args:
        stage: stage1 or stage2.
        params: That section of params.yaml, as JSON.
        code: Digest of the step's code; other code is refused. Empty: the image's.
        model: The model to start from.
        base: The base model, which a stage that goes on with an adapter needs.
        amt: The AMT dataset.
        validated: What validate left, of each corpus: the frames.
        trained: The merged model, the adapter, the log and the ledger of rows.
    """
    import json
    from pathlib import Path

    from emoverse.lineage import check_code, metadata_of
    from emoverse.params import TrainParams, parse
    from emoverse.training import step

    check_code("train", code)
    out = Path(trained.path)
    step.train(
        stage,
        Path(model.path),
        Path(amt.path),
        [Path(one.path) for one in validated],
        out,
        parse(TrainParams, json.loads(params), place=stage),
        base=Path(base.path),
    )
    trained.metadata.update(metadata_of(out))
