"""Ask every task about every utterance and write what the mixtures keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from emoverse.amt.mixture import Stage, draw
from emoverse.amt.outputs import Outputs
from emoverse.amt.reasons import Reasons
from emoverse.amt.tables import CorpusTable
from emoverse.corpora.base import Utterance
from emoverse.params import AmtParams
from emoverse.tasks import task
from emoverse.tasks.base import LeftOut, Options, Question, Scene
from emoverse.tasks.text import MUTED, neutralise

_COPIED: Final = ("mer", "msa")
"""Tasks whose rows modality drop-out copies, in the last stage only: that is the model whose controls are scored."""


class Builder:
    """Turn dialogues into rows. ``leaked`` are train and validation utterances that show a test utterance."""

    def __init__(
        self, params: AmtParams, stages: Sequence[Stage], reasons: Reasons, leaked: frozenset[str], outputs: Outputs
    ) -> None:
        self._params, self._stages, self._reasons, self._outputs = params, stages, reasons, outputs
        self._leaked = leaked if params.leakage == "drop" else frozenset()
        self._options = Options(zero_sentiment=params.zero_sentiment, ecpe_gold_emotions=params.ecpe_gold_emotions)
        self.candidates = 0
        self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.left_out: dict[tuple[str, str, str], Counter[str]] = {}  # reasons by (file, corpus, task)
        self.remedies: dict[str, str] = {}
        self.tolerated: dict[str, str] = {}  # the remedies of reasons that may empty a task
        self.closed: set[str] = set()  # tasks with a closed list of answers
        self.answers: dict[tuple[str, str, str], Counter[str]] = {}  # by (split or stage, corpus, task)
        self.placeholders: list[str] = []

    def corpus(self, table: CorpusTable) -> None:
        """Write all rows of one corpus."""
        used = [stage for stage in self._stages if table.name in stage.corpora]
        asked = sorted({name for stage in used for name, weight in stage.weights.items() if weight > 0})
        for dialogue, units in table.dialogues():
            unsafe = {one.utterance_id for one in dialogue if self._is_unsafe(one)}
            self.placeholders += sorted(unsafe)
            for one, face in zip(dialogue, units, strict=True):
                scene = _Asked(self, one, dialogue, face, frozenset(unsafe))
                if one.split == "train":
                    for stage in used:
                        self._train(stage, scene)
                else:
                    for name in asked:
                        self._held_out(name, scene)

    def _train(self, stage: Stage, scene: _Asked) -> None:
        """Write the rows of one train utterance in one stage."""
        picks = stage.picks(scene.one.utterance_id)
        weighted = sum(weight > 0 for weight in stage.weights.values())
        self.candidates += weighted
        self.dropped["not sampled"] += weighted - len(picks)
        for i, name in enumerate(picks):
            question = self._question(stage.name, name, scene)
            if question is None:
                continue
            if not question.trained:
                self._drop(stage.name, name, scene.one, "sentiment-zero")
                continue
            self._write(stage.name, stage.name, name, scene, question)
            if stage is self._stages[-1] and name in _COPIED:
                self._copies(stage, name, scene, question)
            if stage.per_clip == "one":
                self.dropped["one task per clip"] += len(picks) - i - 1
                break

    def _held_out(self, name: str, scene: _Asked) -> None:
        """Write the row of one test or validation utterance, with its gold."""
        one = scene.one
        self.candidates += 1
        question = self._question(one.split, name, scene)
        if question is not None:
            gold = {**question.gold, "group": f"{one.corpus}/{one.split}/{one.dialogue_id}"}
            self._write(f"{one.split}/{one.corpus}-{name}", one.split, name, scene, question, gold=gold)

    def _question(self, where: str, name: str, scene: _Asked) -> Question | None:
        """Ask one task; count why there is no question, or why it may not be used."""
        asked = scene.ask(name)
        if isinstance(asked, LeftOut):
            self._drop(where, name, scene.one, asked.reason)
            if asked.remedy:
                (self.tolerated if asked.tolerated else self.remedies)[asked.reason] = asked.remedy
            return None
        if scene.one.split != "test" and not self._leaked.isdisjoint(scene.shown(name)):
            self._drop(where, name, scene.one, "leak")
            return None
        return asked

    def _drop(self, where: str, name: str, one: Utterance, reason: str) -> None:
        self.dropped[reason] += 1
        self.left_out.setdefault((where, one.corpus, name), Counter())[reason] += 1

    def _write(
        self, file: str, where: str, name: str, scene: _Asked, question: Question, *, gold: dict[str, Any] | None = None
    ) -> None:
        """Write a row and its published form, the latter with the transcript verbatim."""
        one, unsafe = scene.one, not scene.unsafe.isdisjoint(scene.shown(name))
        query = scene.ask_verbatim(name) if unsafe else ""
        self._outputs.write(
            file, name, one, question, still=self._still(name, one), query=query, gold=gold, placeholder=unsafe
        )
        self.kept += 1
        if question.gold["answers"] is not None:
            self.closed.add(name)
        self.answers.setdefault((where, one.corpus, name), Counter())[question.answer] += 1

    def _copies(self, stage: Stage, name: str, scene: _Asked, question: Question) -> None:
        """Write the row again with blank frames, and again without words, each for a share of rows."""
        one, still = scene.one, self._still(name, scene.one)
        for suffix in ("~blank", "~mute"):
            if draw(stage.seed, stage.name, name, one.utterance_id, suffix) >= self._params.modality_dropout:
                continue
            text = question.text if suffix == "~blank" else scene.ask_muted(name)
            copy = replace(question, text=text)
            self._outputs.write(stage.name, name, one, copy, still=still, suffix=suffix)
            self.candidates += 1
            self.kept += 1

    def _still(self, name: str, one: Utterance) -> bool:
        """Say whether a row shows the peak frame instead of the clip."""
        return task(name).media == "peak" or (one.corpus == "mosei" and self._params.mosei_media == "image")

    def _is_unsafe(self, one: Utterance) -> bool:
        return neutralise(one.text) != one.text or (one.speaker is not None and neutralise(one.speaker) != one.speaker)

    def reason_of(self, scene: _Asked) -> Any:
        """Return the provider's reason for an utterance."""
        return self._reasons.of(scene.one, scene.dialogue, scene.units)

    @property
    def options(self) -> Options:
        """Return the choices that change a question."""
        return self._options


class _Asked:
    """One utterance and its surroundings; each task is asked once, however many stages keep the row."""

    def __init__(
        self,
        builder: Builder,
        one: Utterance,
        dialogue: list[Utterance],
        units: Mapping[str, float] | None,
        unsafe: frozenset[str],
    ) -> None:
        self._builder, self.one, self.dialogue, self.units, self.unsafe = builder, one, dialogue, units, unsafe
        self._answers: dict[str, Question | LeftOut] = {}

    def ask(self, name: str) -> Question | LeftOut:
        """Return the task's question or why there is none."""
        if name not in self._answers:
            self._answers[name] = task(name).ask(self._scene(name))
        return self._answers[name]

    def ask_verbatim(self, name: str) -> str:
        """Return the prompt with the transcript as it stands."""
        asked = task(name).ask(replace(self._scene(name), verbatim=True))
        assert isinstance(asked, Question)
        return asked.text

    def ask_muted(self, name: str) -> str:
        """Return the prompt with ``...`` for the words."""
        asked = task(name).ask(replace(self._scene(name), utterance=replace(self.one, text=MUTED)))
        assert isinstance(asked, Question)
        return asked.text

    def shown(self, name: str) -> frozenset[str]:
        """Return the ids of the utterances that a row of this task shows."""
        if task(name).shows == "utterance":
            return frozenset((self.one.utterance_id,))
        return frozenset(other.utterance_id for other in self.dialogue)

    def _scene(self, name: str) -> Scene:
        reason = self._builder.reason_of(self) if name == "eri" else None
        return Scene(
            utterance=self.one, dialogue=self.dialogue, units=self.units, reason=reason, options=self._builder.options
        )
