"""Component of ``build-amt``."""

from typing import List  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def build_amt(
    params: dict,
    code_digest: str,
    validated: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    amt: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Turn utterances into the AMT instruction dataset.

    Args:
        params: Section amt of params.yaml.
        code_digest: Digest of the step's code; the step refuses to run other code. Empty: any code.
        validated: Output of validate for each corpus.
        amt: Training and test rows, audit and baselines.
        page: Results of the audits.
    """
    import shutil
    from pathlib import Path

    from emoverse.amt import build_amt as step
    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.compat.kfp import section
    from emoverse.config import AmtParams
    from emoverse.errors import step_errors
    from emoverse.validation.amt_rows import check_folder

    with step_errors():
        check_code("build-amt", code_digest)
        out = Path(amt.path)
        settings = section(AmtParams, params, place="amt")
        step.build_amt([Path(corpus.path) for corpus in validated], out, settings, check=check_folder)
        amt.metadata.update({**metadata_of(out), "display_name": "AMT dataset"})
        page.metadata.update({**amt.metadata, "display_name": "AMT audit"})
        shutil.copyfile(out / "page.html", page.path)
