"""The component of ``validate``, once per corpus."""

from kfp import dsl

from components.image import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def validate(
    corpus: str,
    raw_md5: str,
    media: str,
    validation: str,
    code: str,
    volume: str,
    raw: dsl.Input[dsl.Dataset],
    validated: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Check one raw corpus; keep its utterances, frames and quarantine.

    Args:
        corpus: Name of the corpus, a module of emoverse.corpora.
        raw_md5: The MD5 that DVC knows the raw folder by; other content is refused.
        media: Section media of params.yaml, as JSON.
        validation: Section validation of params.yaml, as JSON.
        code: Digest of the step's code; other code is refused. Empty: the image's.
        volume: Where fetch may have kept it: Kubeflow mounts a run's workspace for tasks that are told its path.
        raw: What fetch left.
        validated: Utterances, frames, quarantine.
        page: What the checks found.
    """
    import json
    import shutil
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.config import MediaParams, ValidationParams, parse
    from emoverse.fetching.fetch import raw_folder
    from emoverse.validation import validate as step

    check_code("validate", code)
    out = Path(validated.path)
    step.validate(
        corpus,
        raw_folder(Path(raw.path), volume),
        out,
        parse(MediaParams, json.loads(media), place="media"),
        parse(ValidationParams, json.loads(validation), place="validation"),
    )
    validated.metadata.update(metadata_of(out, raw=raw_md5))
    page.metadata.update(validated.metadata)
    shutil.copyfile(out / "page.html", page.path)
