"""Component of one shard of ``validate``."""

from kfp import dsl

from components import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def validate_part(
    part: str,
    media: dict,
    code_digest: str,
    volume: str,
    raw: dsl.Input[dsl.Dataset],
    shard: dsl.Output[dsl.Dataset],
) -> None:
    """Decode a share of one raw corpus's clips.

    Args:
        part: Which share, such as 1/4.
        media: Section media of params.yaml.
        code_digest: Digest of the step's code; the step refuses to run other code. Empty: any code.
        volume: Folder of a mounted volume where fetch may have put the corpus. Kubeflow mounts a run's workspace for
            tasks that have its path as a parameter.
        raw: Output of fetch; its metadata names the corpus.
        shard: Frames and the results of probing the files.
    """
    from pathlib import Path

    from emoverse.artifacts.lineage import check_code, metadata_of
    from emoverse.compat.kfp import section
    from emoverse.config import MediaParams
    from emoverse.errors import step_errors
    from emoverse.fetching import raw_folder
    from emoverse.validation.validate import validate_part as step

    with step_errors():
        check_code("validate", code_digest)
        out = Path(shard.path)
        number, _, count = part.partition("/")
        step(
            raw.metadata["corpus"],
            raw_folder(Path(raw.path), volume),
            out,
            section(MediaParams, media, place="media"),
            part=int(number),
            parts=int(count),
        )
        shard.metadata.update({**metadata_of(out), "display_name": f"validated {raw.metadata['corpus']} {part}"})
