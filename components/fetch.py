"""The component of ``fetch``, once per corpus."""

from kfp import dsl

from components.image import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def fetch(corpus: str, md5: str, remote: str, root: str, volume: str, raw: dsl.Output[dsl.Dataset]) -> None:
    """Bring one raw corpus to where validate can read it; refuse any content but the one that was asked for.

    Args:
        corpus: Name of the corpus, a module of emoverse.corpora.
        md5: The MD5 that DVC knows the raw folder by.
        remote: Public settings of the DVC remote that holds it, as JSON. Empty: it lies in the volume or at root.
        root: A folder that holds it already, where no remote and no volume is given.
        volume: A mounted folder to keep it in, by its MD5, or the run's workspace. Empty: it travels as the artifact.
        raw: The corpus, or a note of the folder it lies in.
    """
    from pathlib import Path

    from emoverse.artifacts.lineage import made_with
    from emoverse.fetching import fetch as step

    facts = step.fetch(corpus, md5, Path(raw.path), remote=remote, root=root, volume=volume)
    raw.metadata.update({**facts, **made_with()})
