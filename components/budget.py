"""The component that stops a run before a GPU is asked for."""

from kfp import dsl

from components.image import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def budget(
    media: str,
    stage1: str,
    stage2: str,
    code: str,
    model: dsl.Input[dsl.Artifact],
    amt: dsl.Input[dsl.Dataset],
    counts: dsl.Output[dsl.Artifact],
    table: dsl.Output[dsl.Markdown],
) -> None:
    """Count the tokens of the rows that will be trained; refuse rows longer than their stage's max_length.

    Args:
        media: Section media of params.yaml, as JSON.
        stage1: Section stage1 of params.yaml, as JSON. Empty: not trained in this run.
        stage2: Section stage2 of params.yaml, as JSON.
        code: Digest of the step's code; other code is refused. Empty: the image's.
        model: The model that will be trained; its weights are not looked at and may be missing.
        amt: The AMT dataset.
        counts: Rows, median and longest of each stage and task, the ids of rows that are too long.
        table: The same as a table.
    """
    import json
    import shutil
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.config import MediaParams, TrainParams, parse
    from emoverse.prompt import budget as step

    check_code("budget", code)
    out = Path(counts.path)
    frames = parse(MediaParams, json.loads(media), place="media").frames
    asked = {stage: text for stage, text in (("stage1", stage1), ("stage2", stage2)) if text}
    lengths = {stage: parse(TrainParams, json.loads(text), place=stage).max_length for stage, text in asked.items()}
    step.budget(Path(amt.path), Path(model.path), frames, lengths, out)
    counts.metadata.update(metadata_of(out))
    table.metadata.update(counts.metadata)
    shutil.copyfile(out / "table.md", table.path)
