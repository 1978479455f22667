"""The component that ends a sweep over seeds."""

from typing import List  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components.image import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def over_seeds(
    code: str,
    scores: dsl.Input[List[dsl.Artifact]],  # noqa: UP006
    metrics: dsl.Output[dsl.Metrics],
    table: dsl.Output[dsl.Markdown],
) -> None:
    """Compare the scores of trainings that differ in their seed alone.

    Args:
        code: Digest of the report's code; other code is refused. Empty: the image's.
        scores: What evaluate left, of each seed.
        metrics: Mean and standard deviation of each task's score.
        table: The same, with each seed's score.
    """
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, made_with
    from emoverse.artifacts.manifest import read_manifest
    from emoverse.report.run_pages import as_markdown, over_seeds

    check_code("report", code)
    found = over_seeds([Path(one.path) for one in scores])
    for one in found:
        metrics.log_metric(f"{one.task}_{one.metric}_mean", one.mean)
        metrics.log_metric(f"{one.task}_{one.metric}_sd", one.deviation)
    made_from = sorted("evaluate " + read_manifest(Path(one.path))["outputs"]["digest"] for one in scores)
    facts = {"made_from": ", ".join(made_from), **made_with()}
    table.metadata.update(facts)
    metrics.metadata.update(facts)
    Path(table.path).write_text(as_markdown(found), "utf-8")
    Path(metrics.path).write_text("see the artifact's metadata\n", "utf-8")
