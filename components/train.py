"""Component of ``train``, one task per stage."""

from typing import List  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def train(
    stage: str,
    params: dict,
    overrides: dict,
    code_digest: str,
    model: dsl.Input[dsl.Model],
    amt: dsl.Input[dsl.Dataset],
    validated: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    trained: dsl.Output[dsl.Model],
    without_weights: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    base: dsl.Input[dsl.Model] = None,
    model_digest: str = "",
) -> None:
    """Fine-tune one stage with ms-swift; on several nodes, as a TrainJob of Kubeflow Trainer.

    Args:
        stage: stage1 or stage2.
        params: That section of params.yaml.
        overrides: Values that replace those of the section, such as the seed in a sweep.
        code_digest: Digest of the step's code; the step refuses to run other code. Empty: any code.
        model: The model to start from.
        amt: The AMT dataset.
        validated: Output of validate for each corpus: the frames.
        trained: The merged model, the adapter, the log and the ledger of rows.
        without_weights: A copy without weights, for steps that need only metadata.
        metrics: Steps, rows, the final loss and the speed.
        base: The base model, for a stage that continues an adapter. Left out where ``model`` is the base model:
            Kubeflow cannot pass one artifact to two inputs of a task.
        model_digest: Digest of a model from outside this run; another is refused. Empty: any model.
    """
    import json
    from pathlib import Path

    from emoverse.cpus import limit_threads

    limit_threads()  # before torch is imported
    from emoverse.artifacts.lineage import check_code, check_given, metadata_of
    from emoverse.artifacts.manifest import copy_without_weights, read_manifest
    from emoverse.compat.kfp import section, write_placeholder
    from emoverse.config import TrainParams
    from emoverse.errors import step_errors
    from emoverse.training.train_job import train_in_pod

    with step_errors():
        check_code("train", code_digest)
        check_given(Path(model.path), model_digest)
        out = Path(trained.path)
        settings = section(TrainParams, {**params, **overrides}, place=stage)
        frames = [Path(corpus.path) for corpus in validated]
        train_in_pod(stage, Path(model.path), Path(amt.path), frames, out, settings, base=Path((base or model).path))
        title = f"stage {stage.removeprefix('stage')} model"
        trained.metadata.update({**metadata_of(out), "display_name": title})
        copy_without_weights(out, Path(without_weights.path))
        without_weights.metadata.update({**trained.metadata, "display_name": f"{title} without weights"})
        manifest = read_manifest(out)
        speed = json.loads(out.with_name(f"{out.name}.run.json").read_text("utf-8"))["training"]
        measured = {"rows": manifest["rows"]["out"], "tokens_per_second": speed["tokens_per_second"]}
        for name, value in {**manifest["facts"], **measured}.items():
            metrics.log_metric(name, value)
        metrics.metadata["display_name"] = f"metrics of stage {stage.removeprefix('stage')}"
        write_placeholder(metrics)
