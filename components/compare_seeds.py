"""Component that ends a sweep over seeds."""

from kfp import dsl

from components import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def compare_seeds(
    code_digest: str,
    scores_1: dsl.Input[dsl.Artifact],
    scores_2: dsl.Input[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    table: dsl.Output[dsl.Markdown],
    scores_3: dsl.Input[dsl.Artifact] = None,
    scores_4: dsl.Input[dsl.Artifact] = None,
    scores_5: dsl.Input[dsl.Artifact] = None,
    scores_6: dsl.Input[dsl.Artifact] = None,
    scores_7: dsl.Input[dsl.Artifact] = None,
    scores_8: dsl.Input[dsl.Artifact] = None,
) -> None:
    """Compare the scores of trainings that differ only in their seed.

    Kubeflow passes a list of artifacts only from a loop, and a loop cannot read the list of validated corpora, so each
    training's scores are an input of their own.

    Args:
        code_digest: Digest of the report's code; the step refuses to run other code. Empty: any code.
        scores_1: Output of evaluate for the first seed.
        scores_2: Output of evaluate for the second seed.
        metrics: Mean and standard deviation of each task's score.
        table: The same, with each seed's score, and the seed that the validation sets choose.
        scores_3: Output of evaluate for seed number 3, if there are as many.
        scores_4: Output of evaluate for seed number 4, if there are as many.
        scores_5: Output of evaluate for seed number 5, if there are as many.
        scores_6: Output of evaluate for seed number 6, if there are as many.
        scores_7: Output of evaluate for seed number 7, if there are as many.
        scores_8: Output of evaluate for seed number 8, if there are as many.
    """
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, made_with
    from emoverse.artifacts.manifest import read_manifest
    from emoverse.compat.kfp import write_placeholder
    from emoverse.errors import step_errors
    from emoverse.report.run_pages import as_markdown, over_seeds

    with step_errors():
        check_code("report", code_digest)
        every = (scores_1, scores_2, scores_3, scores_4, scores_5, scores_6, scores_7, scores_8)
        folders = [Path(scores.path) for scores in every if scores is not None]
        comparison = over_seeds(folders)
        for result in comparison.tasks:
            metrics.log_metric(f"{result.task}_{result.metric}_mean", result.mean)
            metrics.log_metric(f"{result.task}_{result.metric}_sd", result.deviation)
        for seed, score in comparison.validation.items():
            metrics.log_metric(f"validation_seed_{seed}", score)
        metrics.metadata["display_name"] = "metrics over seeds"
        made_from = sorted("evaluate " + read_manifest(folder)["outputs"]["digest"] for folder in folders)
        table.metadata.update({**made_with(), "made_from": ", ".join(made_from), "display_name": "comparison of seeds"})
        Path(table.path).write_text(as_markdown(comparison), "utf-8")
        write_placeholder(metrics)
