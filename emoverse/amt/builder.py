"""Make every task's question about every utterance, and write the rows that the mixtures keep.

Which tasks a clip serves in a stage follows from a seeded hash of its id: no order, worker or hash seed matters.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Literal, TypeVar

from emoverse.amt.corpus_table import CorpusTable
from emoverse.amt.reasons import Reasons
from emoverse.amt.records import BLANK, MUTE, Outputs, Record, Row
from emoverse.config import AmtParams
from emoverse.corpora import Utterance, get_corpus
from emoverse.corpora import corpora as all_corpora
from emoverse.errors import UserError, did_you_mean
from emoverse.tasks import Context, Options, Question, Skipped, conditions, mute, neutralise, task, tasks

Key = tuple[str, str, str]
"""(stage or split, corpus, task)."""
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Stage:
    """One training stage's mixture.

    Attributes:
        weights: The share of eligible rows kept of each task, 0..1.
        per_clip: ``one``: a clip serves one task of the stage.
        caps: The largest number of rows of a task.
        limits: The draw that the rows of a capped task must stay below; computed from ``caps``.
    """

    name: str
    corpora: tuple[str, ...]
    weights: dict[str, float]
    seed: int
    per_clip: Literal["one", "several"]
    caps: dict[str, int] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)

    @cached_property
    def tasks(self) -> list[str]:
        """Return the tasks with a weight; those that keep every row come first."""
        weighted = ((weight < 1, name) for name, weight in self.weights.items() if weight > 0)
        return [name for _, name in sorted(weighted)]

    def draw(self, task_name: str, utterance_id: str) -> float:
        """Return the draw that decides whether a clip serves a task."""
        return draw(utterance_id, self.seed, self.name, task_name)

    def queue(self, utterance_id: str) -> list[str]:
        """Return the tasks to try on a clip, in order.

        ``several``: the tasks whose draw is below their weight. ``one``: all of them, in a random order in which a
        task comes first with odds proportional to its weight (an exponential race).
        """
        if self.per_clip == "one":
            arrival = {name: -math.log1p(-self.draw(name, utterance_id)) / self.weights[name] for name in self.tasks}
            return sorted(self.tasks, key=arrival.__getitem__)
        return [
            name for name in self.tasks if self.weights[name] >= 1 or self.draw(name, utterance_id) < self.weights[name]
        ]

    def is_over_limit(self, task_name: str, utterance_id: str) -> bool:
        """Return whether a cap leaves a clip out, because its draw is not among the smallest."""
        return task_name in self.limits and self.draw(task_name, utterance_id) >= self.limits[task_name]


def stages(params: AmtParams, corpora: Sequence[str]) -> tuple[Stage, ...]:
    """Return the two stages; raise UserError for an unknown task or corpus, and for one whose folder is missing."""
    plan = []
    for name, section in (("stage1", params.stage1), ("stage2", params.stage2)):
        for task_name in (*section.tasks, *section.caps):
            if task_name not in tasks():
                hint = did_you_mean(task_name, tasks())
                raise UserError(f"unknown task {task_name!r}", place=f"amt.{name}.tasks", remedy=hint)
        for corpus in section.corpora:
            if corpus in corpora:
                continue
            if corpus not in all_corpora():
                hint = did_you_mean(corpus, all_corpora())
                raise UserError(f"unknown corpus {corpus!r}", place=f"amt.{name}.corpora", remedy=hint)
            remedy = f"add its folder to --validated, or remove it from amt.{name}.corpora"
            raise UserError(f"the mixture needs {corpus!r}, which is missing", place=f"amt.{name}", remedy=remedy)
        weights, caps = _by_condition(section.tasks, params), _by_condition(section.caps, params)
        plan.append(Stage(name, tuple(section.corpora), weights, params.seed, params.per_clip, caps))
    return tuple(plan)


def _by_condition(named: Mapping[str, Number], params: AmtParams) -> dict[str, Number]:
    """Return weights or caps by the conditions that are trained."""
    options = Options(ecpe_gold_emotions=params.ecpe_gold_emotions)
    return {
        condition: value
        for name, value in named.items()
        for condition in conditions(name)
        if task(condition).is_trained(options)
    }


def draw(utterance_id: str, *key: str | int) -> float:
    """Return a number in [0, 1) that is a fixed, well-mixed function of the key and the id."""
    digest = hashlib.blake2b((_prefix(key) + utterance_id).encode("utf-8"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


@cache
def _prefix(key: tuple[str | int, ...]) -> str:
    return "".join(f"{part}\0" for part in key)


class Builder:
    """Turn utterances into rows and count everything.

    Args:
        params: Section ``amt``.
        stages: The mixtures whose rows are written.
        reasons: Provider of ERI's reasons.
        leaked: Ids of train and validation utterances that show a test utterance.
        outputs: Where rows are written; None to count only.
        held_out: The stages whose tasks are tested: all, also those whose rows are the authors' own.
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

    def add_corpus(self, table: CorpusTable) -> None:
        """Write all rows of one corpus."""
        stages = [stage for stage in self._stages if table.name in stage.corpora]
        wanted = {name for stage in self._tested if table.name in stage.corpora for name in stage.tasks}
        tested = sorted({condition for name in wanted for condition in conditions(name)})
        for utterances in table.dialogues():
            dialogue = Dialogue(table, utterances, self._leaked, self._options, self._reasons)
            self.placeholders += sorted(dialogue.unsafe)
            for utterance in utterances:
                if utterance.split == "train":
                    for stage in stages:
                        self._train(stage, dialogue, utterance)
                else:
                    for name in tested:
                        self._hold_out(name, dialogue, utterance)

    def add_records(self, stage: str, records: Iterable[Record]) -> None:
        """Write the authors' own records as a stage's rows."""
        for record in records:
            self.candidates += 1
            utterance, question = record.utterance, record.question
            if not self._leaked.isdisjoint(record.shown):
                self._drop((stage, utterance.corpus, record.task), "leak")
                continue
            query = record.query if record.query != question.text else ""
            row = Row(record.task, utterance, question, record.still, query=query, suffix=record.suffix)
            self._write(stage, stage, row)

    def _train(self, stage: Stage, dialogue: Dialogue, utterance: Utterance) -> None:
        """Write a train utterance's rows of one stage."""
        queue = stage.queue(utterance.utterance_id)
        self.candidates += len(stage.tasks)
        self.dropped["not sampled"] += len(stage.tasks) - len(queue)
        for tried, name in enumerate(queue, start=1):
            question = dialogue.question(name, utterance)
            reason = self._reason_against(question, name, dialogue, utterance)
            if not reason and stage.is_over_limit(name, utterance.utterance_id):
                reason = "cap"
            if reason or isinstance(question, Skipped):
                self._drop((stage.name, utterance.corpus, name), reason)
                continue
            if name in stage.caps:
                self.draws[stage.name, name].append(stage.draw(name, utterance.utterance_id))
            row = self._row(name, dialogue, utterance, question)
            self._write(stage.name, stage.name, row)
            # In the last stage only: that is the model whose controls are scored.
            if stage.name == self._tested[-1].name and task(name).modality_dropout:
                self._write_copies(stage, row)
            if stage.per_clip == "one":
                self.dropped["one task per clip"] += len(queue) - tried
                break

    def _hold_out(self, name: str, dialogue: Dialogue, utterance: Utterance) -> None:
        """Write a test or validation utterance's row of one task, with its gold."""
        self.candidates += 1
        question = dialogue.question(name, utterance)
        reason = self._reason_against(question, name, dialogue, utterance)
        if isinstance(question, Skipped) or reason == "leak":
            self._drop((utterance.split, utterance.corpus, name), reason)
            return
        row = self._row(name, dialogue, utterance, question)
        row.group = f"{utterance.corpus}/{utterance.split}/{utterance.dialogue_id}"
        self._write(f"{utterance.split}/{utterance.corpus}-{name}", utterance.split, row)

    def _reason_against(self, question: Question | Skipped, name: str, dialogue: Dialogue, utterance: Utterance) -> str:
        """Return why a question may not be trained on; empty when it may."""
        if isinstance(question, Skipped):
            if question.remedy:
                (self.tolerated if question.tolerated else self.remedies)[question.reason] = question.remedy
            return question.reason
        if dialogue.shows(name, utterance, dialogue.leaked):
            return "leak"
        return "" if question.trained else "sentiment-zero"

    def _drop(self, key: Key, reason: str) -> None:
        self.dropped[reason] += 1
        self.left_out[key][reason] += 1

    def _row(self, name: str, dialogue: Dialogue, utterance: Utterance, question: Question) -> Row:
        """Return the row of a question; where a transcript has a placeholder, with its verbatim prompt."""
        unsafe = dialogue.shows(name, utterance, dialogue.unsafe)
        query = dialogue.verbatim_prompt(name, utterance) if unsafe else ""
        return Row(name, utterance, question, self._is_still(name, utterance.corpus), query=query)

    def _is_still(self, name: str, corpus_name: str) -> bool:
        """Return whether the row shows the peak frame instead of the clip."""
        images = get_corpus(corpus_name).published_as_images and self._params.mosei_media == "image"
        return task(name).media == "peak" or images

    def _write_copies(self, stage: Stage, row: Row) -> None:
        """Write, for a share of the rows, one copy with blank frames and another without the transcript."""
        for suffix in (BLANK, MUTE):
            name = row.utterance.utterance_id
            if draw(name, stage.seed, stage.name, row.task, suffix) >= self._params.modality_dropout:
                continue
            self.candidates += 1
            question = row.question
            if suffix == MUTE:
                text = mute(question.text)
                assert text is not None, "a task with modality drop-out quotes the transcript"
                question = question._replace(text=text)
            self._write(stage.name, stage.name, Row(row.task, row.utterance, question, row.still, suffix=suffix))

    def _write(self, file: str, where: str, row: Row) -> None:
        """Write one row and count it; a copy has no answer of its own."""
        self.kept += 1
        if not row.is_copy:
            if row.question.gold["answers"] is not None:
                self.closed.add(row.task)
            self.answers[where, row.utterance.corpus, row.task][row.question.answer] += 1
        if self._outputs is not None:
            self._outputs.write(file, row)


class Dialogue:
    """The utterances of one dialogue and the questions about them; each question is made once.

    Args:
        table: The corpus, for its action units.
        utterances: The dialogue's utterances by position.
        leaked: Ids of all train and validation utterances that show a test utterance.
        options: The parameters that change questions.
        reasons: Provider of ERI's reasons.
    """

    def __init__(
        self,
        table: CorpusTable,
        utterances: Sequence[Utterance],
        leaked: frozenset[str],
        options: Options,
        reasons: Reasons,
    ) -> None:
        self._table, self._utterances, self._options, self._reasons = table, utterances, options, reasons
        ids = {utterance.utterance_id for utterance in utterances}
        self.leaked = frozenset() if utterances[0].split == "test" else leaked & ids
        self.unsafe = frozenset(item.utterance_id for item in utterances if _has_placeholder(item))
        self._questions: dict[tuple[str, str], Question | Skipped] = {}
        self._contexts: dict[str, Context] = {}

    def shows(self, name: str, utterance: Utterance, marked: frozenset[str]) -> bool:
        """Return whether a task's row shows a marked utterance: its own, or any of the dialogue."""
        return utterance.utterance_id in marked if task(name).shows == "utterance" else bool(marked)

    def question(self, name: str, utterance: Utterance) -> Question | Skipped:
        """Return a task's question about an utterance."""
        key = (name, utterance.utterance_id)
        if key not in self._questions:
            self._questions[key] = task(name).ask(self._context(name, utterance))
        return self._questions[key]

    def verbatim_prompt(self, name: str, utterance: Utterance) -> str:
        """Return a row's prompt with the transcript unchanged."""
        question = task(name).question(self._context(name, utterance)._replace(verbatim=True))
        assert isinstance(question, Question)
        return question.text

    def _context(self, name: str, utterance: Utterance) -> Context:
        context = self._contexts.get(utterance.utterance_id)
        if context is None:
            units = self._table.units(utterance.utterance_id)
            context = Context(utterance, self._utterances, units, None, self._options)
            self._contexts[utterance.utterance_id] = context
        if not task(name).needs_reason:
            return context
        return context._replace(reason=self._reasons.of(utterance, self._utterances, context.units))


def _has_placeholder(utterance: Utterance) -> bool:
    text = f"{utterance.speaker}: {utterance.text}"
    return neutralise(text) != text
