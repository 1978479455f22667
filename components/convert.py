"""The component of ``convert``."""

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def convert(name: str, source: dsl.Input[dsl.Model], model: dsl.Output[dsl.Model]) -> None:
    """Turn an original InternVL2 checkpoint into a transformers-native one; none of its code is run.

    Args:
        name: What the checkpoint is called.
        source: The checkpoint's folder, as downloaded.
        model: The converted model.
    """
    from pathlib import Path

    from emoverse.lineage import metadata_of
    from emoverse.models.convert import step

    out = Path(model.path)
    step.convert(Path(source.path), out)
    model.metadata.update({"checkpoint": name, **metadata_of(out)})
