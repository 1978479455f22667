"""The component of ``base-model`` where InternVL2 itself is the base."""

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def adopt(
    weights_md5: str,
    media: str,
    code: str,
    volume: str,
    weights: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    without_weights: dsl.Output[dsl.Artifact],
) -> None:
    """Take an InternVL2 checkpoint as the base model, converted where it is an original one.

    Args:
        weights_md5: The MD5 that DVC knows the checkpoint's folder by; other content is refused.
        media: Section media of params.yaml, as JSON.
        code: Digest of the step's code; other code is refused. Empty: the image's.
        volume: Where fetch may have kept it: Kubeflow mounts a run's workspace for tasks that are told its path.
        weights: What fetch left.
        model: The base model.
        without_weights: The same but for the weights, for what reads no more.
    """
    import json
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.artifacts.manifest import copy_without_weights
    from emoverse.config import MediaParams, parse
    from emoverse.fetching.fetch import raw_folder
    from emoverse.models import base_model as step

    check_code("base-model", code)
    out = Path(model.path)
    params = parse(MediaParams, json.loads(media), place="media")
    step.publish_checkpoint(raw_folder(Path(weights.path), volume), out, params)
    model.metadata.update(metadata_of(out, raw=weights_md5))
    copy_without_weights(out, Path(without_weights.path))
    without_weights.metadata.update(model.metadata)
