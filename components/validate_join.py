"""Component that joins the shards of ``validate``."""

from typing import List  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def validate_join(
    corpus: str,
    raw_md5: str,
    media: dict,
    validation: dict,
    code_digest: str,
    volume: str,
    raw: dsl.Input[dsl.Dataset],
    parts: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    validated: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Join the shards of one raw corpus; the result has the same bytes as that of a single pod.

    Args:
        corpus: Name of the corpus, a module of emoverse.corpora.
        raw_md5: MD5 of the raw folder in DVC; other content is refused.
        media: Section media of params.yaml.
        validation: Section validation of params.yaml.
        code_digest: Digest of the step's code; the step refuses to run other code. Empty: any code.
        volume: Folder of a mounted volume where fetch may have put the corpus. Kubeflow mounts a run's workspace for
            tasks that have its path as a parameter.
        raw: Output of fetch.
        parts: All shards, in any order.
        validated: Utterances, frames, quarantine.
        page: Results of the checks.
    """
    import shutil
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.compat.kfp import section
    from emoverse.config import MediaParams, ValidationParams
    from emoverse.errors import step_errors
    from emoverse.fetching import raw_folder
    from emoverse.validation.validate import join_parts

    with step_errors():
        check_code("validate", code_digest)
        out = Path(validated.path)
        join_parts(
            corpus,
            raw_folder(Path(raw.path), volume),
            [Path(part.path) for part in parts],
            out,
            section(MediaParams, media, place="media"),
            section(ValidationParams, validation, place="validation"),
        )
        validated.metadata.update({**metadata_of(out, raw=raw_md5), "display_name": f"validated {corpus}"})
        page.metadata.update({**validated.metadata, "display_name": f"checks of {corpus}"})
        shutil.copyfile(out / "page.html", page.path)
