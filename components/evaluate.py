"""The component of ``evaluate``."""

from typing import List  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def evaluate(
    params: str,
    code: str,
    model: dsl.Input[dsl.Model],
    amt: dsl.Input[dsl.Dataset],
    validated: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    scores: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
) -> None:
    """Score a model on AMT's test sets.

    Args:
        params: Section evaluate of params.yaml, as JSON.
        code: Digest of the step's code; other code is refused. Empty: the image's.
        model: The model to score.
        amt: The AMT dataset: its test rows.
        validated: What validate left, of each corpus: the frames.
        scores: Scores with intervals, predictions, plots.
        metrics: The headline scores.
        confusion: Emotions (MER), gold against reply.
    """
    import json
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, metadata_of, shown_with
    from emoverse.config import EvaluateParams, parse
    from emoverse.evaluation import evaluate as step
    from emoverse.report.scores import confusion_over, flat

    check_code("evaluate", code)
    out = Path(scores.path)
    step.evaluate(
        Path(model.path),
        Path(amt.path),
        [Path(one.path) for one in validated],
        out,
        parse(EvaluateParams, json.loads(params), place="evaluate"),
    )
    scores.metadata.update(metadata_of(out))
    for name, value in flat(out).items():
        metrics.log_metric(name, value)
    labels, counts = confusion_over(out)
    if labels:
        confusion.log_confusion_matrix(labels, counts)
    for shown in (metrics, confusion):
        shown.metadata.update(shown_with(scores.metadata))
    # kfp's local cache takes a step as made only when each of its artifacts has a file.
    Path(metrics.path).write_text("see the artifact's metadata\n", "utf-8")
    Path(confusion.path).write_text("see the artifact's metadata\n", "utf-8")
