"""The component that joins the parts of ``validate``."""

from typing import List  # noqa: UP035  (kfp reads list types from typing)

from kfp import dsl

from components.image import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def validate_join(
    corpus: str,
    raw_md5: str,
    media: str,
    validation: str,
    code: str,
    volume: str,
    raw: dsl.Input[dsl.Dataset],
    parts: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    validated: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Join what several pods made of one raw corpus to what one would have made of it.

    Args:
        corpus: Name of the corpus, a module of emoverse.corpora.
        raw_md5: The MD5 that DVC knows the raw folder by; other content is refused.
        media: Section media of params.yaml, as JSON.
        validation: Section validation of params.yaml, as JSON.
        code: Digest of the step's code; other code is refused. Empty: the image's.
        volume: Where fetch may have kept it: Kubeflow mounts a run's workspace for tasks that are told its path.
        raw: What fetch left.
        parts: All parts, in any order.
        validated: Utterances, frames, quarantine.
        page: What the checks found.
    """
    import json
    import shutil
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.config import MediaParams, ValidationParams, parse
    from emoverse.fetching.fetch import raw_folder
    from emoverse.validation.parts import join_parts

    check_code("validate", code)
    out = Path(validated.path)
    join_parts(
        corpus,
        raw_folder(Path(raw.path), volume),
        [Path(one.path) for one in parts],
        out,
        parse(MediaParams, json.loads(media), place="media"),
        parse(ValidationParams, json.loads(validation), place="validation"),
    )
    validated.metadata.update(metadata_of(out, raw=raw_md5))
    page.metadata.update(validated.metadata)
    shutil.copyfile(out / "page.html", page.path)
