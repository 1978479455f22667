"""Component of ``base-model`` where an InternVL2 checkpoint is the base."""

from kfp import dsl

from components import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def import_base_model(
    weights_md5: str,
    media: dict,
    code_digest: str,
    volume: str,
    weights: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    without_weights: dsl.Output[dsl.Artifact],
) -> None:
    """Use an InternVL2 checkpoint as the base model; convert it if it is an original one.

    Args:
        weights_md5: MD5 of the checkpoint's folder in DVC; other content is refused.
        media: Section media of params.yaml.
        code_digest: Digest of the step's code; the step refuses to run other code. Empty: any code.
        volume: Folder of a mounted volume where fetch may have put the corpus. Kubeflow mounts a run's workspace for
            tasks that have its path as a parameter.
        weights: Output of fetch.
        model: The base model.
        without_weights: A copy without weights, for steps that need only metadata.
    """
    from pathlib import Path

    from emoverse.cpus import limit_threads

    limit_threads()  # before torch is imported
    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.artifacts.manifest import copy_without_weights
    from emoverse.compat.kfp import section
    from emoverse.config import MediaParams
    from emoverse.errors import step_errors
    from emoverse.fetching import raw_folder
    from emoverse.models import base_model as step

    with step_errors():
        check_code("base-model", code_digest)
        out = Path(model.path)
        folder = raw_folder(Path(weights.path), volume)
        step.publish_checkpoint(folder, out, section(MediaParams, media, place="media"))
        model.metadata.update({**metadata_of(out, raw=weights_md5), "display_name": "base model"})
        copy_without_weights(out, Path(without_weights.path))
        without_weights.metadata.update({**model.metadata, "display_name": "base model without weights"})
