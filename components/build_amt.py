"""The component of ``build-amt``."""

from typing import List  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components.image import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def build_amt(
    params: str,
    code: str,
    validated: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    amt: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Turn utterances into the AMT instruction dataset.

    Args:
        params: Section amt of params.yaml, as JSON.
        code: Digest of the step's code; other code is refused. Empty: the image's.
        validated: What validate left, of each corpus.
        amt: Training and test rows, audit and baselines.
        page: What the audits found.
    """
    import json
    import shutil
    from pathlib import Path

    from emoverse.amt import build_amt as step
    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.config import AmtParams, parse
    from emoverse.validation.amt_rows import check_folder

    check_code("build-amt", code)
    out = Path(amt.path)
    settings = parse(AmtParams, json.loads(params), place="amt")
    step.build_amt([Path(one.path) for one in validated], out, settings, check=check_folder)
    amt.metadata.update(metadata_of(out))
    page.metadata.update(amt.metadata)
    shutil.copyfile(out / "page.html", page.path)
