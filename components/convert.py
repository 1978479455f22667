"""The component of ``convert``."""

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def convert(
    name: str,
    listing: str,
    code: str,
    source: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
    without_weights: dsl.Output[dsl.Artifact],
) -> None:
    """Turn an original InternVL2 checkpoint into a transformers-native one; none of its code is run.

    Args:
        name: What the checkpoint is called.
        listing: Digest of what its folder held when the run was submitted, for Kubeflow's cache. Empty: not known.
        code: Digest of base-model's code, of which this is a part; other code is refused. Empty: the image's.
        source: The checkpoint's folder, as downloaded.
        model: The converted model.
        without_weights: The same but for the weights, for what reads no more.
    """
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.artifacts.manifest import copy_without_weights
    from emoverse.models.convert import convert as step

    check_code("base-model", code)
    out = Path(model.path)
    step.convert(Path(source.path), out)
    model.metadata.update({"checkpoint": name, "listing": listing, **metadata_of(out)})
    copy_without_weights(out, Path(without_weights.path))
    without_weights.metadata.update(model.metadata)
