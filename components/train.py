"""The component of ``train``, once per stage."""

from typing import List  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def train(
    stage: str,
    params: str,
    code: str,
    seed: str,
    model: dsl.Input[dsl.Model],
    base: dsl.Input[dsl.Model],
    amt: dsl.Input[dsl.Dataset],
    validated: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    trained: dsl.Output[dsl.Model],
    without_weights: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    given: str = "",
) -> None:
    """Fine-tune one stage with ms-swift.

    Args:
        stage: stage1 or stage2.
        params: That section of params.yaml, as JSON.
        code: Digest of the step's code; other code is refused. Empty: the image's.
        seed: A seed in place of the section's, in a sweep. Empty: the section's.
        model: The model to start from.
        base: The base model, which a stage that goes on with an adapter needs.
        amt: The AMT dataset.
        validated: What validate left, of each corpus: the frames.
        trained: The merged model, the adapter, the log and the ledger of rows.
        without_weights: The same but for the weights, for what reads no more.
        metrics: Steps, the last loss, rows trained.
        given: Digest of a model from outside this run; another is refused. Empty: whatever lies there.
    """
    import json
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, check_given, metadata_of, shown_with
    from emoverse.artifacts.manifest import copy_without_weights, read_manifest
    from emoverse.config import TrainParams, parse
    from emoverse.training import train as step

    check_code("train", code)
    check_given(Path(model.path), given)
    out = Path(trained.path)
    section = json.loads(params) | ({"seed": int(seed)} if seed else {})
    step.train(
        stage,
        Path(model.path),
        Path(amt.path),
        [Path(one.path) for one in validated],
        out,
        parse(TrainParams, section, place=stage),
        base=Path(base.path),
    )
    trained.metadata.update(metadata_of(out))
    copy_without_weights(out, Path(without_weights.path))
    without_weights.metadata.update(trained.metadata)
    facts = read_manifest(out)["facts"]
    for name in ("steps", "longest_row", "final_loss"):
        metrics.log_metric(name, facts[name])
    metrics.metadata.update(shown_with(trained.metadata))
    # kfp's local cache takes a step as made only when each of its artifacts has a file.
    Path(metrics.path).write_text("see the artifact's metadata\n", "utf-8")
