"""Take a corpus some thousand utterances at a time, whole dialogues of one split, and ask tasks about many at once."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emoverse.amt.published import escaped, media_path
from emoverse.amt.reasons import Reasons
from emoverse.amt.tables import CorpusTable
from emoverse.corpora.base import Utterance
from emoverse.tasks import task
from emoverse.tasks.base import LeftOut, Options, Question, Scene
from emoverse.tasks.text import neutralise

SIZE: Final = 4096
Mask = NDArray[np.bool_]
Answered = Sequence[Question | LeftOut | None]
"""What a task said of each utterance of a chunk; None where it was not asked."""


class Chunk:
    """Some whole dialogues of one corpus and split; every column has one place an utterance.

    ``leaked`` marks utterances that show a test utterance, ``unsafe`` those whose words hold a placeholder.
    """

    def __init__(
        self,
        corpus: str,
        dialogues: Sequence[Sequence[Utterance]],
        units: Sequence[Mapping[str, float] | None],
        leaked: Container[str],
        options: Options,
    ) -> None:
        self.corpus, self.split = corpus, dialogues[0][0].split
        self._dialogue_of = np.repeat(np.arange(len(dialogues)), [len(dialogue) for dialogue in dialogues])
        self.utterances = [one for dialogue in dialogues for one in dialogue]
        self.ids = [one.utterance_id for one in self.utterances]
        words = [f"{one.speaker}: {one.text}" for one in self.utterances]
        self.unsafe: Mask = np.array([neutralise(one) != one for one in words], dtype=np.bool_)
        # Where nothing is unsafe, the words as they stand are the safe ones.
        verbatim = (~self._near(self.unsafe)).tolist()
        spoken = ((one, dialogue) for dialogue in dialogues for one in dialogue)
        self._scenes = [
            Scene(one, dialogue, face, None, options, as_it_stands)
            for (one, dialogue), face, as_it_stands in zip(spoken, units, verbatim, strict=True)
        ]
        self.leaked: Mask = np.array([name in leaked for name in self.ids], dtype=np.bool_)
        if self.split == "test":
            self.leaked[:] = False

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self.utterances)

    @cached_property
    def written_ids(self) -> list[bytes]:
        """Return the ids, escaped as JSON strings: rows of several tasks and stages hold them."""
        return escaped(self.ids)

    @cached_property
    def clips(self) -> list[bytes]:
        """Return the clips' published paths, escaped."""
        return escaped([media_path(one, still=False) for one in self.utterances])

    @cached_property
    def stills(self) -> list[bytes]:
        """Return the published paths of the clips' stills, escaped."""
        return escaped([media_path(one, still=True) for one in self.utterances])

    @cached_property
    def groups(self) -> list[bytes]:
        """Return the dialogues' names, escaped; records of one dialogue are not independent."""
        return escaped([f"{one.corpus}/{one.split}/{one.dialogue_id}" for one in self.utterances])

    def shows(self, name: str, marked: Mask) -> Mask:
        """Say of every row of a task whether it shows a marked utterance: its own, or one of the dialogue's."""
        return marked if task(name).shows == "utterance" else self._near(marked)

    def _near(self, marked: Mask) -> Mask:
        """Say of every row whether its dialogue has a marked utterance."""
        return np.asarray(np.bincount(self._dialogue_of, marked) > 0)[self._dialogue_of]

    def ask(self, name: str, rows: Mask, reasons: Reasons) -> Answered:
        """Ask a task about the chosen rows."""
        ask, scenes, wanted = task(name).ask, self._scenes, rows.tolist()
        if name == "eri":
            scenes = [_reasoned(scene, reasons) if row else scene for scene, row in zip(scenes, wanted, strict=True)]
        return [ask(scene) if row else None for scene, row in zip(scenes, wanted, strict=True)]

    def ask_verbatim(self, name: str, row: int, reasons: Reasons) -> str:
        """Return a row's prompt with the transcript as it stands."""
        scene = _reasoned(self._scenes[row], reasons) if name == "eri" else self._scenes[row]
        asked = task(name).ask(scene._replace(verbatim=True))
        assert isinstance(asked, Question)
        return asked.text


def chunks(table: CorpusTable, leaked: Container[str], options: Options, size: int = SIZE) -> Iterator[Chunk]:
    """Yield a corpus in its fixed order; where chunks end depends on nothing but the corpus."""
    dialogues: list[list[Utterance]] = []
    units: list[Mapping[str, float] | None] = []
    for dialogue, faces in table.dialogues():
        if dialogues and (len(units) >= size or dialogues[-1][0].split != dialogue[0].split):
            yield Chunk(table.name, dialogues, units, leaked, options)
            dialogues, units = [], []
        dialogues.append(dialogue)
        units += faces
    if dialogues:
        yield Chunk(table.name, dialogues, units, leaked, options)


def _reasoned(scene: Scene, reasons: Reasons) -> Scene:
    one, dialogue, units, _, options, verbatim = scene
    return Scene(one, dialogue, units, reasons.of(one, dialogue, units), options, verbatim)
