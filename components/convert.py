"""Component that converts an original InternVL2 checkpoint."""

from kfp import dsl

from components import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def convert(
    name: str,
    source_digest: str,
    code_digest: str,
    source: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
    without_weights: dsl.Output[dsl.Artifact],
) -> None:
    """Convert an original InternVL2 checkpoint to the transformers layout without running any of its code.

    Args:
        name: Name of the checkpoint.
        source_digest: Digest of the folder's listing when the run was submitted, for the cache key. Empty: unknown.
        code_digest: Digest of base-model's code, which includes the conversion. Empty: any code.
        source: The checkpoint's folder, as downloaded.
        model: The converted model.
        without_weights: A copy without weights, for steps that need only metadata.
    """
    from pathlib import Path

    from emoverse.cpus import limit_threads

    limit_threads()  # before torch is imported
    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.artifacts.manifest import copy_without_weights
    from emoverse.errors import step_errors
    from emoverse.models import convert as step

    with step_errors():
        check_code("base-model", code_digest)
        out = Path(model.path)
        step.convert(Path(source.path), out)
        facts = {"checkpoint": name, "listing": source_digest, **metadata_of(out)}
        model.metadata.update({**facts, "display_name": "base model"})
        copy_without_weights(out, Path(without_weights.path))
        without_weights.metadata.update({**facts, "display_name": "base model without weights"})
