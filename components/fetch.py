"""Component of ``fetch``, one task per corpus."""

from kfp import dsl

from components import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def fetch(corpus: str, md5: str, remote: str, root: str, volume: str, raw: dsl.Output[dsl.Dataset]) -> None:
    """Bring one raw corpus to where validate can read it; refuse other content than requested.

    Args:
        corpus: Name of the corpus, a module of emoverse.corpora.
        md5: MD5 of the raw folder in DVC.
        remote: Public settings of the DVC remote that holds it, as JSON. Empty: it is in the volume or at root.
        root: A folder that already holds it, used without a remote and a volume.
        volume: Folder of a mounted volume, or the run's workspace, to keep it in by its MD5. Empty: in the artifact.
        raw: The corpus, or a note of the folder that holds it.
    """
    from pathlib import Path

    from emoverse import fetching
    from emoverse.artifacts.lineage import made_with
    from emoverse.errors import step_errors

    with step_errors():
        facts = fetching.fetch(corpus, md5, Path(raw.path), remote=remote, root=root, volume=volume)
        title = "base model as stored" if corpus == "weights" else f"raw {corpus}"
        raw.metadata.update({**facts, **made_with(), "display_name": title})
