"""Component of ``evaluate``."""

from typing import List  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def evaluate(
    params: dict,
    code_digest: str,
    model: dsl.Input[dsl.Model],
    amt: dsl.Input[dsl.Dataset],
    validated: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    scores: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    confusion_meld_mer: dsl.Output[dsl.ClassificationMetrics],
    confusion_meld_msa: dsl.Output[dsl.ClassificationMetrics],
    confusion_ecf_mer: dsl.Output[dsl.ClassificationMetrics],
    confusion_ecf_msa: dsl.Output[dsl.ClassificationMetrics],
    confusion_mosei_mer: dsl.Output[dsl.ClassificationMetrics],
    confusion_mosei_msa: dsl.Output[dsl.ClassificationMetrics],
) -> None:
    """Score a model on AMT's test sets.

    Args:
        params: Section evaluate of params.yaml.
        code_digest: Digest of the step's code; the step refuses to run other code. Empty: any code.
        model: The model to score.
        amt: The AMT dataset: its test rows.
        validated: Output of validate for each corpus: the frames.
        scores: Scores with intervals, predictions, plots.
        metrics: Headline scores with their intervals, baselines and controls.
        confusion_meld_mer: Confusion matrix of that test set; empty if it was not scored.
        confusion_meld_msa: Confusion matrix of that test set; empty if it was not scored.
        confusion_ecf_mer: Confusion matrix of that test set; empty if it was not scored.
        confusion_ecf_msa: Confusion matrix of that test set; empty if it was not scored.
        confusion_mosei_mer: Confusion matrix of that test set; empty if it was not scored.
        confusion_mosei_msa: Confusion matrix of that test set; empty if it was not scored.
    """
    from pathlib import Path

    from emoverse.cpus import limit_threads

    limit_threads()  # before torch is imported
    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.compat.kfp import section, write_placeholder
    from emoverse.config import EvaluateParams
    from emoverse.errors import step_errors
    from emoverse.evaluation import evaluate as step
    from emoverse.report.scores import confusion_matrices, flat

    with step_errors():
        check_code("evaluate", code_digest)
        out = Path(scores.path)
        step.evaluate(
            Path(model.path),
            Path(amt.path),
            [Path(corpus.path) for corpus in validated],
            out,
            section(EvaluateParams, params, place="evaluate"),
        )
        scores.metadata.update({**metadata_of(out), "display_name": "scores"})
        for name, value in flat(out).items():
            metrics.log_metric(name, value)
        metrics.metadata["display_name"] = "metrics of the test sets"
        outputs = {
            "meld-mer": confusion_meld_mer,
            "meld-msa": confusion_meld_msa,
            "ecf-mer": confusion_ecf_mer,
            "ecf-msa": confusion_ecf_msa,
            "mosei-mer": confusion_mosei_mer,
            "mosei-msa": confusion_mosei_msa,
        }
        matrices = confusion_matrices(out)
        for name, output in outputs.items():
            output.metadata["display_name"] = f"confusion matrix {name}" + ("" if name in matrices else " (not scored)")
            if name in matrices:
                output.log_confusion_matrix(*matrices[name])
        write_placeholder(metrics, *outputs.values())
