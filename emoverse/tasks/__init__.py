"""The tasks: their questions, their right answers, and how replies are read and scored.

A new task is one module of this package that defines ``TASK``, an instance of a subclass of :class:`Task`. It may also
have ``CONDITIONS``: tasks that put the same question under other conditions. They are tested beside the module's
``TASK``, each with a test set of its own.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emoverse.corpora import Utterance
from emoverse.errors import UserError, did_you_mean
from emoverse.tasks.replies import is_loop, read_label, word_of

# Every placeholder and special token of InternVL2, its language models and ms-swift begins with "<" and a letter,
# "/" or "|" (InternLM2 also has [UNUSED_TOKEN_n]). A space after the bracket breaks all of them.
_TOKEN_START: Final = re.compile(r"<(?=[/|!A-Za-z_])|\[(?=UNUSED_TOKEN)")
# A line break would let a transcript write its own "Target utterance:" line.
_LINE_BREAK: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
MUTED: Final = "..."
# Greedy, as a transcript may contain quotation marks.
_TRANSCRIPT: Final = re.compile(r"(The person says: (['\"])).*(\2 <[a-z]+> )", re.DOTALL)
Numbers = NDArray[np.float64]
Gold = Mapping[str, Any]
"""The ``gold`` object of a test row: ``answer`` (str), ``answers`` (every allowed answer in a fixed order, or None for
an open task), ``group`` (the dialogue, added by ``amt``: records of one group are not independent), and the task's own
keys."""
FLAWS: Final = ("unparsable", "repeated", "ambiguous")
"""What can be wrong with the form of a reply. Only unparsable replies count as wrong for it: ``repeated`` ones say the
same again and again, ``ambiguous`` ones give several labels, of which the first counts."""
UNPARSABLE = "unparsable"
"""The extra predicted class of replies that the parser cannot read; they count as wrong and are never dropped."""


def neutralise(text: str) -> str:
    """Neutralise special tokens and line breaks in user text; ordinary text is returned unchanged."""
    if text.isprintable() and "<" not in text and "[" not in text:  # nearly all transcripts; no break is printable
        return text
    return _TOKEN_START.sub(lambda match: match.group() + " ", _LINE_BREAK.sub(" ", text))


def mute(prompt: str, replacement: str = MUTED) -> str | None:
    """Return the prompt with its transcript replaced, by default with ``...``; None if it quotes no transcript."""
    match = _TRANSCRIPT.search(prompt)
    return f"{prompt[: match.end(1)]}{replacement}{prompt[match.start(3) :]}" if match else None


@dataclass(frozen=True, kw_only=True)
class Options:
    """The choices of ``params.yaml`` that change a question or its answer."""

    zero_sentiment: Literal["drop", "positive", "own-class"] = "drop"
    ecpe_gold_emotions: bool | Literal["both"] = True


# Reason, Context and Question are named tuples: each is made once per row, and a frozen dataclass takes three times
# as long to make.
class Reason(NamedTuple):
    """A textual reason for an emotion and who wrote it; ``clues`` are the observations it builds on."""

    text: str
    provider: str
    clues: tuple[str, ...] = ()


class Context(NamedTuple):
    """Everything a task may use to make a question about one utterance.

    Attributes:
        utterance: What the question is about.
        dialogue: The utterance and its neighbours in order of position.
        units: ``"AU01"`` to its intensity (0..5) at the peak frame; None if no action units were measured.
        reason: For tasks with ``needs_reason``.
        options: The parameters that change questions.
        verbatim: Whether to quote transcripts unchanged (the published form) instead of neutralised.
    """

    utterance: Utterance
    dialogue: Sequence[Utterance]
    units: Mapping[str, float] | None = None
    reason: Reason | None = None
    options: Options = Options()
    verbatim: bool = False

    def transcript(self, utterance: Utterance) -> str:
        """Return an utterance's text as it goes into a prompt."""
        return utterance.text if self.verbatim else neutralise(utterance.text)


class Question(NamedTuple):
    """A question without its media placeholder, its right answer, and what scoring needs.

    ``gold`` may be shared with other questions: do not change it. ``trained`` is False for a record that belongs only
    in a test file (sentiment 0 under ``drop``). ``extra`` holds more string keys of the row, such as ERI's
    ``provider``.
    """

    text: str
    answer: str
    gold: Gold
    trained: bool = True
    extra: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Skipped:
    """Why an utterance gives no question: a short stable code that is counted, and what would change it.

    ``tolerated``: a task that loses all its rows this way is reported and is not an error.
    """

    reason: str
    remedy: str = ""
    tolerated: bool = False


NO_EMOTION: Final = Skipped("no-emotion-label", "give the corpus's emotion labels (MOSEI: CMU_MOSEI_Labels.csd)")
LABEL_NOT_TAKEN: Final = Skipped("label-not-taken", "the task does not take this label of the corpus", tolerated=True)


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: ``matrix[i, j]`` counts gold ``rows[i]`` predicted as ``columns[j]``, the last unparsable."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    matrix: Numbers


class Scorer:
    """Score replies to a fixed list of n gold records, by additive counts in k columns.

    Counts are additive so that a bootstrap resample is a matrix product. Subclasses implement ``count`` (or
    ``counts``) and ``scores``.
    """

    def __init__(self, golds: Sequence[Gold]) -> None:
        self.golds = list(golds)

    @property
    def size(self) -> int:
        """Return n, the number of records."""
        return len(self.golds)

    def count(self, gold: Gold, reply: str) -> Iterable[float]:
        """Return one record's k counts."""
        raise NotImplementedError

    def counts(self, replies: Sequence[str]) -> Numbers:
        """Return an (n, k) array of additive counts; raise ValueError unless there are n replies."""
        self.check(replies)
        pairs = zip(self.golds, replies, strict=True)
        return np.array([tuple(self.count(gold, reply)) for gold, reply in pairs], dtype=np.float64)

    def check(self, replies: Sequence[str]) -> None:
        """Raise ValueError unless there is one reply per record."""
        if len(replies) != self.size:
            raise ValueError(f"{len(replies)} replies for {self.size} records")

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Turn summed counts of shape (..., k) into named scores of shape (...); 0/0 is 0."""
        raise NotImplementedError

    def confusion(self, totals: Numbers) -> Confusion | None:
        """Return the confusion matrix of summed counts of shape (k,), None for a task without one."""
        return None


class ExtendedScorer(Scorer):
    """A scorer with more columns: those of another scorer come first."""

    width: int

    def __init__(self, inner: Scorer) -> None:
        super().__init__(inner.golds)
        self._inner = inner

    def confusion(self, totals: Numbers) -> Confusion | None:
        """Return the other scorer's confusion matrix."""
        return self._inner.confusion(totals[..., : -self.width])


class LabelScorer(Scorer):
    """Count a confusion matrix of g gold classes by p labels and ``unparsable``, and how many replies are exact.

    ``classes`` are the gold classes (n, one per record); by default a record's class is its answer. Columns of the
    counts: the flattened (g, p + 1) matrix, then one for replies that equal the answer exactly.
    """

    def __init__(self, golds: Sequence[Gold], classes: Sequence[str] | None = None, rows: Sequence[str] = ()) -> None:
        super().__init__(golds)
        self.labels: tuple[str, ...] = tuple(golds[0]["answers"])
        self.rows = tuple(rows) or self.labels
        self.answers = [str(gold["answer"]) for gold in golds]
        if any(tuple(gold["answers"]) != self.labels for gold in golds):
            raise ValueError("records with different label sets cannot be scored together")
        index = {name: i for i, name in enumerate(self.rows)}
        self._gold = np.array([index[name] for name in (classes or self.answers)], dtype=np.int64)

    def counts(self, replies: Sequence[str]) -> Numbers:
        """Return an (n, g * (p + 1) + 1) array with at most two ones in each row."""
        self.check(replies)
        index: dict[str | None, int] = {label: i for i, label in enumerate(self.labels)}
        index[None] = width = len(self.labels)
        predicted = np.array([index[parse_label(reply, self.labels)] for reply in replies], dtype=np.int64)
        counts = np.zeros((self.size, len(self.rows) * (width + 1) + 1))
        counts[np.arange(self.size), self._gold * (width + 1) + predicted] = 1.0
        counts[:, -1] = [reply == answer for reply, answer in zip(replies, self.answers, strict=True)]
        return counts

    def matrix(self, totals: Numbers) -> Numbers:
        """Return the confusion matrices (..., g, p + 1) of summed counts."""
        return totals[..., :-1].reshape(*totals.shape[:-1], len(self.rows), len(self.labels) + 1)

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Return ``label_scores`` and the share of replies that equal the answer exactly."""
        matrix = self.matrix(totals)
        scores = label_scores(matrix, [word_of(label) for label in self.labels])
        scores["exact_match"] = ratio(totals[..., -1], matrix.sum((-1, -2)))
        return scores

    def confusion(self, totals: Numbers) -> Confusion | None:
        """Return gold by predicted counts."""
        return Confusion(self.rows, (*self.labels, UNPARSABLE), self.matrix(totals))


def label_scores(matrix: Numbers, names: Sequence[str]) -> dict[str, Numbers]:
    """Score confusion matrices (..., p, p + 1), as scikit-learn does with ``labels`` given and ``zero_division=0``.

    Macro F1 is over all p labels, absent ones included; weighted F1 weights by gold counts.
    """
    square = matrix[..., :-1]
    hits = np.diagonal(square, axis1=-2, axis2=-1)
    gold, predicted, total = matrix.sum(-1), square.sum(-2), matrix.sum((-1, -2))
    each = f1(hits, predicted, gold)
    scores = {
        "accuracy": ratio(hits.sum(-1), total),
        "weighted_f1": ratio((each * gold).sum(-1), total),
        "macro_f1": each.mean(-1),
        "unparsable": ratio(matrix[..., -1].sum(-1), total),
    }
    precision, recall = ratio(hits, predicted), ratio(hits, gold)
    for i, name in enumerate(names):
        scores[f"precision/{name}"] = precision[..., i]
        scores[f"recall/{name}"] = recall[..., i]
        scores[f"f1/{name}"] = each[..., i]
    return scores


class Task:
    """One task, and all that the rest of the package needs to know about it.

    Attributes:
        name: Its name in params.yaml.
        title: What people read.
        headline: The name, among the scorer's scores, of the score that stands for the task.
        rank: Its place in reports and in the demo; the first task's confusion matrix is the one ``dvc plots`` shows.
        media: What the question is about: the moving clip, or its one still.
        shows: Whose text and labels the prompt or the answer reveals.
        needs_reason: Whether a question needs ``Context.reason``.
        free_text: Whether the right answer is free text, which ``parse`` may not read and which a judge can mark.
        takes: The emotion labels that it takes; None takes those of every corpus.
        modality_dropout: Whether modality drop-out copies its rows; its prompt must quote the transcript.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    headline: ClassVar[str]
    rank: ClassVar[int] = 100
    media: ClassVar[Literal["clip", "peak"]] = "clip"
    shows: ClassVar[Literal["utterance", "dialogue"]] = "utterance"
    needs_reason: ClassVar[bool] = False
    free_text: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...] | None] = None
    modality_dropout: ClassVar[bool] = False

    def ask(self, context: Context) -> Question | Skipped:
        """Return the question, or why there is none: also for a label that the task does not take."""
        emotion = context.utterance.emotion
        if self.takes is not None and emotion is not None and emotion not in self.takes:
            return LABEL_NOT_TAKEN
        return self.question(context)

    def question(self, context: Context) -> Question | Skipped:
        """Make the question about ``context.utterance``, or say why there is none."""
        raise NotImplementedError

    def gold(self, answer: str, *, corpus: str, query: str = "") -> dict[str, Any]:
        """Return the gold of a published record, which has only its answer and its query."""
        return {"answer": answer, "answers": None}

    def parse(self, reply: str, gold: Gold) -> Any | None:
        """Read a reply (a label, a set of pairs ...); None if it cannot be read."""
        raise NotImplementedError

    def scorer(self, golds: Sequence[Gold]) -> Scorer:
        """Return the scorer of these gold records (n >= 1)."""
        raise NotImplementedError

    def baselines(self, golds: Sequence[Gold], trained: Counter[str]) -> dict[str, list[str]]:
        """Return named trivial predictors' n replies; ``trained`` counts the answers of the train rows."""
        return {"majority": [majority(golds, trained)] * len(golds)}

    def flaws(self, reply: str, gold: Gold) -> set[str]:
        """Return which of ``FLAWS`` the form of a reply has."""
        flaws = {"unparsable": self.parse(reply, gold) is None, "repeated": is_loop(reply)}
        return {name for name, present in flaws.items() if present}

    def default_corpus(self, answers: Iterable[str]) -> str:
        """Guess whose labels a predictions file uses from its right answers, if its rows name no corpus."""
        return "meld"

    def is_trained(self, options: Options) -> bool:
        """Return whether the mixtures train this condition of the task; test sets are written for all conditions."""
        return True


class LabelTask(Task):
    """A task whose answer is one label of a closed list."""

    def parse(self, reply: str, gold: Gold) -> str | None:
        """Return the label that the reply gives."""
        return parse_label(reply, gold["answers"])

    def flaws(self, reply: str, gold: Gold) -> set[str]:
        """Return the flaws of every task, and ``ambiguous`` for a reply that gives several labels."""
        ambiguous = read_label(reply, tuple(gold["answers"])).ambiguous
        return super().flaws(reply, gold) | ({"ambiguous"} if ambiguous else set())


def parse_label(reply: str, labels: Sequence[str]) -> str | None:
    """Return the label that a reply gives, None if it gives none; see ``replies.read_label``."""
    return read_label(reply, tuple(labels)).label


def ratio(numerator: Numbers, denominator: Numbers) -> Numbers:
    """Divide, taking x/0 as 0; NaN stays NaN."""
    out = np.zeros(np.broadcast(numerator, denominator).shape)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def f1(hits: Numbers, predicted: Numbers, gold: Numbers) -> Numbers:
    """Return the harmonic mean of precision and recall: 2 hits / (predicted + gold)."""
    return ratio(2.0 * hits, predicted + gold)


def binary_weighted_f1(tp: Numbers, fp: Numbers, fn: Numbers, tn: Numbers) -> Numbers:
    """Return the F1 of both classes of binary counts, weighted by their true counts."""
    positive, negative = f1(tp, tp + fp, tp + fn), f1(tn, tn + fn, tn + fp)
    return ratio(positive * (tp + fn) + negative * (tn + fp), tp + fp + fn + tn)


def majority(golds: Sequence[Gold], trained: Counter[str]) -> str:
    """Return the most frequent train answer (the most frequent gold without train rows); ties by code point."""
    counted = trained or Counter(str(gold["answer"]) for gold in golds)
    return min(counted, key=lambda answer: (-counted[answer], answer))


@cache
def tasks() -> dict[str, Task]:
    """Return all tasks by name, in order of name, without their other conditions."""
    return {group[0].name: group[0] for group in _groups()}


def task(name: str) -> Task:
    """Return the task, or condition of a task, of this name; raise UserError naming the nearest one."""
    try:
        return _all()[name]
    except KeyError:
        raise UserError(f"unknown task {name!r}", remedy=did_you_mean(name, _all())) from None


def conditions(name: str) -> tuple[str, ...]:
    """Return the names of every condition of a task, ``name`` among them; the task itself is first."""
    groups = (tuple(condition.name for condition in group) for group in _groups())
    return next(names for names in groups if name in names)


def rank(name: str) -> tuple[int, str]:
    """Return a sort key that orders tasks and test sets (``meld-mer``) for people."""
    last = name.rpartition("-")[2]
    return (_all()[last].rank if last in _all() else Task.rank), name


@cache
def _groups() -> tuple[tuple[Task, ...], ...]:
    """Return each module's task and its other conditions, in order of the task's name."""
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    groups = [(module.TASK, *getattr(module, "CONDITIONS", ())) for module in modules if hasattr(module, "TASK")]
    return tuple(sorted(groups, key=lambda group: group[0].name))


@cache
def _all() -> dict[str, Task]:
    return {condition.name: condition for group in _groups() for condition in group}
