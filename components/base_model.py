"""Component of ``base-model``."""

from kfp import dsl

from components import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def base_model(
    params: dict,
    media: dict,
    code_digest: str,
    model: dsl.Output[dsl.Model],
    without_weights: dsl.Output[dsl.Artifact],
) -> None:
    """Make the tiny InternVL2 that the sample is trained on.

    Args:
        params: Section base_model of params.yaml.
        media: Section media of params.yaml.
        code_digest: Digest of the step's code; the step refuses to run other code. Empty: any code.
        model: The base model.
        without_weights: A copy without weights, for steps that need only metadata.
    """
    from pathlib import Path

    from emoverse.cpus import limit_threads

    limit_threads()  # before torch is imported
    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.artifacts.manifest import copy_without_weights
    from emoverse.compat.kfp import section
    from emoverse.config import BaseModelParams, MediaParams
    from emoverse.errors import step_errors
    from emoverse.models import base_model as step

    with step_errors():
        check_code("base-model", code_digest)
        out = Path(model.path)
        step.base_model(
            out,
            section(BaseModelParams, params, place="base_model"),
            section(MediaParams, media, place="media"),
        )
        model.metadata.update({**metadata_of(out), "display_name": "base model"})
        copy_without_weights(out, Path(without_weights.path))
        without_weights.metadata.update({**model.metadata, "display_name": "base model without weights"})
