"""Ask every task about every utterance and write what the mixtures keep."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from emoverse.amt.authors import Record
from emoverse.amt.mixture import Stage, draw
from emoverse.amt.outputs import Outputs
from emoverse.amt.reasons import Reasons
from emoverse.amt.tables import CorpusTable
from emoverse.corpora.base import Utterance
from emoverse.params import AmtParams
from emoverse.tasks import conditions, task
from emoverse.tasks.base import Gold, LeftOut, Options, Question, Scene
from emoverse.tasks.text import mute, neutralise

_COPIED: Final = ("mer", "msa")
"""Tasks whose rows modality drop-out copies, in the last stage only: that is the model whose controls are scored."""
Key = tuple[str, str, str]
"""(stage or split, corpus, task)."""


class Builder:
    """Turn dialogues into rows and count everything; without ``outputs``, count only.

    ``leaked`` are non-test utterances that show a test utterance. ``held_out`` are the stages whose tasks are tested,
    those with the authors' own rows among them.
    """

    def __init__(
        self,
        params: AmtParams,
        stages: Sequence[Stage],
        reasons: Reasons,
        leaked: frozenset[str],
        outputs: Outputs | None,
        *,
        held_out: Sequence[Stage] = (),
    ) -> None:
        self._params, self._stages, self._reasons, self._outputs = params, stages, reasons, outputs
        self._tested = held_out or stages
        self._leaked = leaked if params.leakage == "drop" else frozenset()
        self._options = Options(zero_sentiment=params.zero_sentiment)
        self.candidates = 0
        self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.left_out: defaultdict[Key, Counter[str]] = defaultdict(Counter)
        self.answers: defaultdict[Key, Counter[str]] = defaultdict(Counter)
        self.closed: set[str] = set()  # tasks with a closed list of answers
        self.remedies: dict[str, str] = {}
        self.tolerated: dict[str, str] = {}  # the remedies of reasons that may empty a task
        self.placeholders: list[str] = []
        self.draws: defaultdict[tuple[str, str], list[float]] = defaultdict(list)  # of capped (stage, task)

    def corpus(self, table: CorpusTable) -> None:
        """Write all rows of one corpus."""
        used = [stage for stage in self._stages if table.name in stage.corpora]
        tested = [stage for stage in self._tested if table.name in stage.corpora]
        wanted = {name for stage in tested for name, weight in stage.weights.items() if weight > 0}
        asked = sorted({condition for name in wanted for condition in conditions(name)})
        for dialogue, units in table.dialogues():
            talk = Talk(dialogue, self._leaked if dialogue[0].split != "test" else frozenset())
            self.placeholders += sorted(talk.unsafe)
            for one, face in zip(dialogue, units, strict=True):
                asking = _Asking(self._reasons, self._options, talk, one, face)
                if one.split == "train":
                    for stage in used:
                        self._train(stage, asking)
                else:
                    for name in asked:
                        self._held_out(name, asking)

    def _train(self, stage: Stage, asking: _Asking) -> None:
        """Write the rows of one train utterance in one stage."""
        picks = stage.picks(asking.one.utterance_id)
        self.candidates += stage.asked
        self.dropped["not sampled"] += stage.asked - len(picks)
        for i, name in enumerate(picks):
            question = self._question(stage.name, name, asking)
            if question is None:
                continue
            if not question.trained:
                self._drop((stage.name, asking.one.corpus, name), "sentiment-zero")
                continue
            if name in stage.caps:
                value = stage.value(name, asking.one.utterance_id)
                if value >= stage.limits.get(name, 1.0):
                    self._drop((stage.name, asking.one.corpus, name), "cap")
                    continue
                self.draws[stage.name, name].append(value)
            self._write(stage.name, stage.name, name, asking, question)
            if stage.name == self._tested[-1].name and name in _COPIED:
                self._copies(stage, name, asking, question)
            if stage.per_clip == "one":
                self.dropped["one task per clip"] += len(picks) - i - 1
                break

    def given(self, stage: str, records: Iterable[Record]) -> None:
        """Write the authors' own records as a stage's rows."""
        for one in records:
            self.candidates += 1
            if not self._leaked.isdisjoint(one.shown):
                self._drop((stage, one.utterance.corpus, one.task), "leak")
                continue
            unsafe = one.query != one.question.text
            query = one.query if unsafe else ""
            if self._outputs is not None:
                self._outputs.write(
                stage, one.task, one.utterance, one.question, still=one.still, query=query, suffix=one.suffix,
                placeholder=unsafe,
            )  # fmt: skip
            self._count(stage, one.task, one.utterance, one.question)

    def _held_out(self, name: str, asking: _Asking) -> None:
        """Write the row of one test or validation utterance, with its gold."""
        one = asking.one
        self.candidates += 1
        question = self._question(one.split, name, asking)
        if question is not None:
            gold = {**question.gold, "group": f"{one.corpus}/{one.split}/{one.dialogue_id}"}
            self._write(f"{one.split}/{one.corpus}-{name}", one.split, name, asking, question, gold)

    def _question(self, where: str, name: str, asking: _Asking) -> Question | None:
        """Ask one task; count why there is no question, or why it may not be used."""
        asked = asking.ask(name)
        if isinstance(asked, LeftOut):
            self._drop((where, asking.one.corpus, name), asked.reason)
            if asked.remedy:
                (self.tolerated if asked.tolerated else self.remedies)[asked.reason] = asked.remedy
            return None
        if asking.shows(name, asking.talk.leaked):
            self._drop((where, asking.one.corpus, name), "leak")
            return None
        return asked

    def _drop(self, key: Key, reason: str) -> None:
        self.dropped[reason] += 1
        self.left_out[key][reason] += 1

    def _write(
        self, file: str, where: str, name: str, asking: _Asking, question: Question, gold: Gold | None = None
    ) -> None:
        """Write a row and its published form, the latter with the transcript verbatim."""
        unsafe = asking.shows(name, asking.talk.unsafe)
        if self._outputs is not None:
            query = asking.ask_verbatim(name) if unsafe else ""
            still = self._still(name, asking.one)
            write = self._outputs.write
            write(file, name, asking.one, question, still=still, query=query, gold=gold, placeholder=unsafe)
        self._count(where, name, asking.one, question)

    def _count(self, where: str, name: str, one: Utterance, question: Question) -> None:
        self.kept += 1
        if question.gold["answers"] is not None:
            self.closed.add(name)
        self.answers[where, one.corpus, name][question.answer] += 1

    def _copies(self, stage: Stage, name: str, asking: _Asking, question: Question) -> None:
        """Write the row again with blank frames, and again without words, each for a share of rows."""
        one, still = asking.one, self._still(name, asking.one)
        for suffix in ("~blank", "~mute"):
            if draw(stage.seed, stage.name, name, suffix, one.utterance_id) >= self._params.modality_dropout:
                continue
            if self._outputs is not None:
                copy = question if suffix == "~blank" else _muted(question)
                self._outputs.write(stage.name, name, one, copy, still=still, suffix=suffix)
            self.candidates += 1
            self.kept += 1

    def _still(self, name: str, one: Utterance) -> bool:
        """Say whether a row shows the peak frame instead of the clip."""
        return task(name).media == "peak" or (one.corpus == "mosei" and self._params.mosei_media == "image")


class Talk:
    """A dialogue, and which of its utterances hold a placeholder or show a test utterance."""

    def __init__(self, utterances: list[Utterance], leaked: frozenset[str]) -> None:
        self.utterances = utterances
        self.unsafe = frozenset(one.utterance_id for one in utterances if _is_unsafe(one))
        self.leaked = frozenset(one.utterance_id for one in utterances if one.utterance_id in leaked)


class _Asking:
    """Ask tasks about one utterance, each of them once, however many stages keep the row."""

    def __init__(
        self, reasons: Reasons, options: Options, talk: Talk, one: Utterance, units: Mapping[str, float] | None
    ) -> None:
        self._reasons, self.talk, self.one = reasons, talk, one
        self._scene = Scene(utterance=one, dialogue=talk.utterances, units=units, options=options)
        self._asked: dict[str, Question | LeftOut] = {}

    def ask(self, name: str) -> Question | LeftOut:
        """Return the task's question or why there is none."""
        found = self._asked.get(name)
        if found is None:
            found = self._asked[name] = task(name).ask(self._scene_for(name))
        return found

    def ask_verbatim(self, name: str) -> str:
        """Return the prompt with the transcript as it stands."""
        asked = task(name).ask(replace(self._scene_for(name), verbatim=True))
        assert isinstance(asked, Question)
        return asked.text

    def shows(self, name: str, marked: frozenset[str]) -> bool:
        """Say whether a row of this task shows one of the marked utterances of the dialogue."""
        return bool(marked) and (task(name).shows == "dialogue" or self.one.utterance_id in marked)

    def _scene_for(self, name: str) -> Scene:
        if name != "eri":
            return self._scene
        scene = self._scene
        reason = self._reasons.of(self.one, scene.dialogue, scene.units)
        return Scene(
            utterance=self.one, dialogue=scene.dialogue, units=scene.units, reason=reason, options=scene.options
        )


def _muted(question: Question) -> Question:
    """Return the question with ``...`` for the person's words."""
    text = mute(question.text)
    assert text is not None, "a task whose rows are copied quotes the words"
    return replace(question, text=text)


def _is_unsafe(one: Utterance) -> bool:
    return neutralise(one.text) != one.text or (one.speaker is not None and neutralise(one.speaker) != one.speaker)
