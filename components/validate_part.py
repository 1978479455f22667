"""The component of one part of ``validate``, on one of several pods."""

from kfp import dsl

from components.image import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def validate_part(
    part: str,
    media: str,
    code: str,
    volume: str,
    raw: dsl.Input[dsl.Dataset],
    part_of_it: dsl.Output[dsl.Dataset],
) -> None:
    """Decode a share of one raw corpus's clips.

    Args:
        part: Which share, as 1/4.
        media: Section media of params.yaml, as JSON.
        code: Digest of the step's code; other code is refused. Empty: the image's.
        volume: Where fetch may have kept it: Kubeflow mounts a run's workspace for tasks that are told its path.
        raw: What fetch left; its metadata names the corpus.
        part_of_it: Frames and what was found out about the files.
    """
    import json
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.config import MediaParams, parse
    from emoverse.fetching.fetch import raw_folder
    from emoverse.validation import parts

    check_code("validate", code)
    out = Path(part_of_it.path)
    number, _, count = part.partition("/")
    parts.validate_part(
        raw.metadata["corpus"],
        raw_folder(Path(raw.path), volume),
        out,
        parse(MediaParams, json.loads(media), place="media"),
        part=int(number),
        parts=int(count),
    )
    part_of_it.metadata.update(metadata_of(out))
