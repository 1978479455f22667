"""Component that copies a run's report to the folder of all reports."""

from kfp import dsl

from components import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def publish(run: str, folder: str, page: dsl.Input[dsl.HTML]) -> None:
    """Copy the report's page to ``folder/run``.

    Args:
        run: Id of the run.
        folder: Folder of all runs' reports, on a volume.
        page: Output of report.
    """
    from pathlib import Path

    from emoverse.errors import step_errors
    from emoverse.report.run_pages import publish_page

    with step_errors():
        publish_page(Path(page.path), run, folder)
