"""The component of ``base-model``."""

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def base_model(
    params: str, media: str, code: str, model: dsl.Output[dsl.Model], without_weights: dsl.Output[dsl.Artifact]
) -> None:
    """Make the tiny InternVL2 the sample is trained on.

    Args:
        params: Section base_model of params.yaml, as JSON.
        media: Section media of params.yaml, as JSON.
        code: Digest of the step's code; other code is refused. Empty: the image's.
        model: The base model.
        without_weights: The same but for the weights, for what reads no more.
    """
    import json
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.artifacts.manifest import copy_without_weights
    from emoverse.config import BaseModelParams, MediaParams, parse
    from emoverse.models import base_model as step

    check_code("base-model", code)
    out = Path(model.path)
    step.base_model(
        out,
        parse(BaseModelParams, json.loads(params), place="base_model"),
        parse(MediaParams, json.loads(media), place="media"),
    )
    model.metadata.update(metadata_of(out))
    copy_without_weights(out, Path(without_weights.path))
    without_weights.metadata.update(model.metadata)
