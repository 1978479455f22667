"""Choose clips of a corpus to try: one of each emotion, out of the test split that validation passed."""

from __future__ import annotations

from pathlib import Path

from emoverse.corpora.base import EMOTIONS, Utterance
from emoverse.params import Params
from emoverse.tables import read_utterances

Example = tuple[str, str]


def examples(params: Params, validated: Path) -> list[Example]:
    """Return (path of a clip, words) of the first corpus at hand, one of each emotion; none without a corpus.

    ``validated`` holds the outputs of validate by corpus name.
    """
    for name, corpus in params.corpora.items():
        table = validated / name / "utterances.parquet"
        if table.is_file() and (found := _chosen(table, Path(corpus.root))):
            return found
    return []


def _chosen(table: Path, root: Path) -> list[Example]:
    first: dict[str, Utterance] = {}
    for one in read_utterances(table):
        if one.split == "test" and one.emotion and one.emotion not in first and (root / one.clip).is_file():
            first[one.emotion] = one
    return [(str((root / first[word].clip).absolute()), first[word].text) for word in EMOTIONS if word in first]
