"""The component that runs when a run ends, well or not."""

from kfp import dsl

from components.image import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def finish(status: dsl.PipelineTaskFinalStatus, run: str, publish: str, summary: dsl.Output[dsl.Markdown]) -> None:
    """Tell how the run ended, and put that beside its report.

    Args:
        status: What Kubeflow says of the run.
        run: Name of the run.
        publish: Folder of all runs' reports, on a volume. Empty: nothing is put anywhere.
        summary: The end in a few words.
    """
    from pathlib import Path

    from emoverse.report.ending import tell

    words = tell(
        run,
        state=status.state,
        task=status.pipeline_task_name,
        problem=status.error_message or "",
        publish=publish,
    )
    Path(summary.path).write_text(words, "utf-8")
