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
        table: Rows, median and longest of each stage and task.
    """
    import json
    from pathlib import Path

    from emoverse.budget import as_markdown, check_budgets, stage_budgets
    from emoverse.inference.load import model_folder
    from emoverse.lineage import check_code, made_with
    from emoverse.manifest import read_manifest
    from emoverse.params import MediaParams, TrainParams, parse

    check_code("budget", code)
    frames = parse(MediaParams, json.loads(media), place="media").frames
    asked = {stage: text for stage, text in (("stage1", stage1), ("stage2", stage2)) if text}
    lengths = {stage: parse(TrainParams, json.loads(text), place=stage).max_length for stage, text in asked.items()}
    found = stage_budgets(Path(amt.path), model_folder(Path(model.path)), frames, lengths)
    made_from = [
        f"{one['step']} {one['outputs']['digest']}"
        for one in (read_manifest(Path(amt.path)), read_manifest(Path(model.path)))
    ]
    table.metadata.update({"made_from": ", ".join(made_from), "max_length": lengths, "frames": frames, **made_with()})
    Path(table.path).write_text(as_markdown(found), "utf-8")
    check_budgets(found)
