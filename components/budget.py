"""Component of ``budget``: stop a run before it asks for a GPU."""

from kfp import dsl

from components import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def budget(
    media: dict,
    stage1: dict,
    stage2: dict,
    code_digest: str,
    model: dsl.Input[dsl.Artifact],
    amt: dsl.Input[dsl.Dataset],
    counts: dsl.Output[dsl.Artifact],
    table: dsl.Output[dsl.Markdown],
) -> None:
    """Count the tokens of the training rows; refuse rows longer than their stage's max_length.

    Args:
        media: Section media of params.yaml.
        stage1: Section stage1 of params.yaml. Empty: not trained in this run.
        stage2: Section stage2 of params.yaml.
        code_digest: Digest of the step's code; the step refuses to run other code. Empty: any code.
        model: The model to train; its weights are not read and may be missing.
        amt: The AMT dataset.
        counts: Rows, median and maximum per stage and task, and the ids of rows that are too long.
        table: The same as a table.
    """
    import shutil
    from pathlib import Path

    from emoverse import budget as step
    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.compat.kfp import section
    from emoverse.config import MediaParams, TrainParams
    from emoverse.errors import step_errors

    with step_errors():
        check_code("budget", code_digest)
        out = Path(counts.path)
        frames = section(MediaParams, media, place="media").frames
        stages = {name: params for name, params in (("stage1", stage1), ("stage2", stage2)) if params}
        limits = {name: section(TrainParams, params, place=name).max_length for name, params in stages.items()}
        step.budget(Path(amt.path), Path(model.path), frames, limits, out)
        counts.metadata.update({**metadata_of(out), "display_name": "token counts"})
        table.metadata.update({**counts.metadata, "display_name": "token budget"})
        shutil.copyfile(out / "table.md", table.path)
