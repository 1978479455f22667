"""Ask every task about every utterance and write what the mixtures keep."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import compress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from emoverse.amt.columns import CorpusTable
from emoverse.amt.mixture import Stage, draws, served
from emoverse.amt.outputs import Outputs, Rows
from emoverse.amt.published import Record, escaped, media_path
from emoverse.amt.reasons import Reasons
from emoverse.config import AmtParams
from emoverse.corpora.base import Utterance
from emoverse.tasks import conditions, task
from emoverse.tasks.base import Context, Options, Question, Skipped, mute, neutralise

_FITS, _ZERO, _LEAK, _CAP = range(4)
"""Verdicts on a row; those after them are the reasons of tasks that have no question."""
Key = tuple[str, str, str]
"""(stage or split, corpus, task)."""
Verdicts = NDArray[np.int64]


class Builder:
    """Turn utterances into rows and count everything; without ``outputs``, count only.

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
        self._why = ["", "sentiment-zero", "leak", "cap"]  # by verdict
        self._left_out: dict[str, int] = {}  # the verdicts that tasks' own reasons have
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
        for chunk in chunks(table, self._leaked, self._options):
            self.placeholders += sorted(chunk.ids[i] for i in np.flatnonzero(chunk.unsafe))
            if chunk.split == "train":
                self._train(used, chunk)
            else:
                self._held_out(asked, chunk)

    def given(self, stage: str, records: Iterable[Record]) -> None:
        """Write the authors' own records as a stage's rows."""
        groups: defaultdict[tuple[str, str, bool], list[tuple[int, Record]]] = defaultdict(list)
        for i, one in enumerate(records):
            self.candidates += 1
            if self._leaked.isdisjoint(one.shown):
                groups[one.task, one.utterance.corpus, one.still].append((i, one))
            else:
                self.dropped["leak"] += 1
                self.left_out[stage, one.utterance.corpus, one.task]["leak"] += 1
        parts, places = [], []
        for (name, corpus, still), found in groups.items():
            ids = escaped([one.utterance.utterance_id for _, one in found])
            clips = escaped([media_path(one.utterance, still=still) for _, one in found])
            questions, suffixes = [one.question for _, one in found], [one.suffix for _, one in found]
            queries = [one.query if one.query != one.question.text else "" for _, one in found]
            parts.append(Rows(name, corpus, still, ids, clips, questions, queries, suffixes))
            places.append(np.array([i for i, _ in found], dtype=np.int64))
        self._write(stage, stage, parts, places)

    def _train(self, stages: Sequence[Stage], chunk: Chunk) -> None:
        """Write a train chunk's rows of every stage; a task is asked once, however many stages keep the row."""
        queues = [stage.queue(chunk.ids) for stage in stages]
        wanted: dict[str, Mask] = {}
        for queue in queues:
            for name, when in queue.items():
                wanted[name] = wanted.get(name, np.zeros(len(chunk), np.bool_)) | np.isfinite(when)
        found = {name: chunk.ask(name, rows, self._reasons) for name, rows in wanted.items()}
        verdicts = {name: self._verdicts(name, chunk, answered) for name, answered in found.items()}
        for stage, queue in zip(stages, queues, strict=True):
            mine = {name: self._capped(stage, name, chunk, verdicts[name]) for name in queue}
            kept, tried = served(queue, {name: mine[name] == _FITS for name in queue}, stage.per_clip)
            picked = sum(int(np.isfinite(when).sum()) for when in queue.values())
            self.candidates += stage.asked * len(chunk)
            self.dropped["not sampled"] += stage.asked * len(chunk) - picked
            self.dropped["one task per clip"] += picked - sum(int(rows.sum()) for rows in tried.values())
            parts: list[Rows] = []
            places: list[NDArray[np.int64]] = []
            for turn, name in enumerate(queue):
                self._drop((stage.name, chunk.corpus, name), mine[name][tried[name] & ~kept[name]])
                rows = np.flatnonzero(kept[name])
                self._note_draws(stage, name, chunk, rows)
                parts.append(self._rows(name, chunk, rows, found[name]))
                places.append((rows * len(queue) + turn) * 3)
                # In the last stage only: that is the model whose controls are scored.
                if stage.name == self._tested[-1].name and task(name).modality_dropout:
                    for nth, (copy, chosen) in enumerate(self._copies(stage, chunk, rows, parts[-1]), start=1):
                        parts.append(copy)
                        places.append(places[-nth][chosen] + nth)
            self._write(stage.name, stage.name, parts, places)

    def _held_out(self, names: Sequence[str], chunk: Chunk) -> None:
        """Write a test or validation chunk's rows, with their gold."""
        for name in names:
            self.candidates += len(chunk)
            found = chunk.ask(name, np.ones(len(chunk), np.bool_), self._reasons)
            verdicts = self._verdicts(name, chunk, found)
            kept = (verdicts == _FITS) | (verdicts == _ZERO)  # sentiment 0 is scored, if not trained
            self._drop((chunk.split, chunk.corpus, name), verdicts[~kept])
            rows = np.flatnonzero(kept)
            part = self._rows(name, chunk, rows, found)
            part.groups = [chunk.groups[i] for i in rows.tolist()]
            self._write(f"{chunk.split}/{chunk.corpus}-{name}", chunk.split, [part], [rows])

    def _verdicts(self, name: str, chunk: Chunk, found: Answered) -> Verdicts:
        """Say of every row of a chunk whether it may be used, or why not; ``_FITS`` where nothing was asked."""
        for one in {asked.reason: asked for asked in found if isinstance(asked, Skipped)}.values():
            if one.reason not in self._left_out:
                self._left_out[one.reason] = len(self._why)
                self._why.append(one.reason)
            if one.remedy:
                (self.tolerated if one.tolerated else self.remedies)[one.reason] = one.remedy
        known = self._left_out
        verdicts = np.array(
            [
                known[one.reason] if isinstance(one, Skipped) else _FITS if one is None or one.trained else _ZERO
                for one in found
            ],
            dtype=np.int64,
        )
        verdicts[(verdicts <= _ZERO) & chunk.shows(name, chunk.leaked)] = _LEAK
        return verdicts

    def _capped(self, stage: Stage, name: str, chunk: Chunk, verdicts: Verdicts) -> Verdicts:
        """Return the verdicts with rows set aside whose draw is not among the smallest that a cap leaves."""
        if name not in stage.limits:
            return verdicts
        over = stage.values(name, chunk.ids) >= stage.limits[name]
        return np.where((verdicts == _FITS) & over, _CAP, verdicts)

    def _note_draws(self, stage: Stage, name: str, chunk: Chunk, rows: NDArray[np.int64]) -> None:
        if name in stage.caps:
            self.draws[stage.name, name] += stage.values(name, [chunk.ids[i] for i in rows]).tolist()

    def _drop(self, key: Key, verdicts: Verdicts) -> None:
        for verdict, count in enumerate(np.bincount(verdicts).tolist()):
            if count:
                self.dropped[self._why[verdict]] += count
                self.left_out[key][self._why[verdict]] += count

    def _rows(self, name: str, chunk: Chunk, rows: NDArray[np.int64], found: Answered) -> Rows:
        """Return a chunk's rows of one task; where a transcript holds a placeholder, its verbatim prompt too."""
        chosen = rows.tolist()
        queries: list[str] = []
        if chunk.unsafe.any():
            unsafe = chunk.shows(name, chunk.unsafe)[rows].tolist()
            marked = zip(chosen, unsafe, strict=True)
            queries = [chunk.ask_verbatim(name, i, self._reasons) if verbatim else "" for i, verbatim in marked]
        questions = [question for i in chosen if isinstance(question := found[i], Question)]
        # Stills show the peak frame instead of the clip.
        still = task(name).media == "peak" or (chunk.corpus == "mosei" and self._params.mosei_media == "image")
        ids, clips = chunk.written_ids, chunk.stills if still else chunk.clips
        return Rows(name, chunk.corpus, still, [ids[i] for i in chosen], [clips[i] for i in chosen], questions, queries)

    def _copies(
        self, stage: Stage, chunk: Chunk, places: NDArray[np.int64], rows: Rows
    ) -> Iterable[tuple[Rows, NDArray[np.int64]]]:
        """Yield a share of a chunk's rows with blank frames, and another without words, and which they are."""
        names = [chunk.ids[i] for i in places.tolist()]
        for suffix in ("~blank", "~mute"):
            share = draws(names, stage.seed, stage.name, rows.task, suffix) < self._params.modality_dropout
            chosen = np.flatnonzero(share)
            self.candidates += len(chosen)
            questions = list(compress(rows.questions, share))
            if suffix == "~mute":
                questions = list(map(_muted, questions))
            ids, clips = list(compress(rows.ids, share)), list(compress(rows.clips, share))
            suffixes = [suffix] * len(chosen)
            yield Rows(rows.task, rows.corpus, rows.still, ids, clips, questions, suffixes=suffixes), chosen

    def _write(self, file: str, where: str, parts: Sequence[Rows], places: Sequence[NDArray[np.int64]]) -> None:
        """Write rows in order of their places, and count them; copies are no answers of their own."""
        for rows in parts:
            self.kept += len(rows)
            if rows.copied or not len(rows):
                continue
            if rows.questions[0].gold["answers"] is not None:
                self.closed.add(rows.task)
            self.answers[where, rows.corpus, rows.task].update(rows.answers)
        if self._outputs is not None:
            self._outputs.write(file, parts, places)


def _muted(question: Question) -> Question:
    """Return the question with ``...`` for the person's words."""
    text = mute(question.text)
    assert text is not None, "a task whose rows are copied quotes the words"
    return question._replace(text=text)


SIZE: Final = 4096
Mask = NDArray[np.bool_]
Answered = Sequence[Question | Skipped | None]
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
            Context(one, dialogue, face, None, options, as_it_stands)
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
        ask, scenes, wanted = task(name).question, self._scenes, rows.tolist()
        if task(name).needs_reason:
            scenes = [_reasoned(scene, reasons) if row else scene for scene, row in zip(scenes, wanted, strict=True)]
        return [ask(scene) if row else None for scene, row in zip(scenes, wanted, strict=True)]

    def ask_verbatim(self, name: str, row: int, reasons: Reasons) -> str:
        """Return a row's prompt with the transcript as it stands."""
        scene = _reasoned(self._scenes[row], reasons) if task(name).needs_reason else self._scenes[row]
        asked = task(name).question(scene._replace(verbatim=True))
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


def _reasoned(scene: Context, reasons: Reasons) -> Context:
    one, dialogue, units, _, options, verbatim = scene
    return Context(one, dialogue, units, reasons.of(one, dialogue, units), options, verbatim)
