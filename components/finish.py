"""Component that runs when a run has ended, successfully or not."""

from kfp import dsl

from components import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def finish(
    status: dsl.PipelineTaskFinalStatus,
    name: str,
    run: str,
    publish: str,
    revision: str,
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Write how the run ended beside its report.

    Args:
        status: Final state of the run, filled in by Kubeflow.
        name: Display name of the run, which need not be unique.
        run: Id of the run.
        publish: Folder of all runs' reports, on a volume.
        revision: Git revision that submitted the run. Empty: unknown.
        summary: The result as Markdown.
    """
    from pathlib import Path

    from emoverse.artifacts.lineage import made_with
    from emoverse.errors import step_errors
    from emoverse.report.run_pages import write_status

    with step_errors():
        text = write_status(
            run,
            name=name,
            state=status.state,
            task=status.pipeline_task_name,
            problem=status.error_message or "",
            publish=publish,
        )
        summary.metadata.update({**made_with(), "run": run, "revision": revision, "display_name": "run summary"})
        Path(summary.path).write_text(text, "utf-8")
        print(text)
