"""The component that runs when a run ends, well or not."""

from kfp import dsl

from components.image import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def finish(
    status: dsl.PipelineTaskFinalStatus, name: str, run: str, publish: str, summary: dsl.Output[dsl.Markdown]
) -> None:
    """Tell how the run ended, and put that beside its report.

    Args:
        status: What Kubeflow says of the run.
        name: What the run is called; two may be called the same.
        run: The run's id.
        publish: Folder of all runs' reports, on a volume. Empty: nothing is put anywhere.
        summary: The end in a few words.
    """
    from pathlib import Path

    from emoverse.artifacts.lineage import made_with
    from emoverse.report.run_pages import write_status

    words = write_status(
        run,
        name=name,
        state=status.state,
        task=status.pipeline_task_name,
        problem=status.error_message or "",
        publish=publish,
    )
    summary.metadata.update({"run": run, **made_with()})
    Path(summary.path).write_text(words, "utf-8")
