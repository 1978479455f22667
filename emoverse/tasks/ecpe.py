"""Ask which utterances caused the target's emotion (emotion-cause pair extraction), as in SemEval-2024 task 3.

The prompt of ``ecpe`` is the authors', character for character. It prints every utterance's gold emotion, and its
candidates leave out the target and what follows, although half of the gold causes are the target itself.
``ecpe_semeval`` asks what SemEval's subtask 2 asks: no emotion is given, and every utterance is a target, neutral ones
included, whose answer is empty. An answer is ``"3_joy,1;3_joy,3"``: target_emotion,cause, pairs in the file's order.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from emoverse.corpora import Utterance
from emoverse.tasks import Context, Gold, Numbers, Options, Question, Scorer, Skipped, Task, f1, neutralise, ratio
from emoverse.tasks.replies import final_text, normalise, synonym_groups

EMOTIONS: Final = ("disgust", "anger", "joy", "sadness", "surprise", "fear")
_OTHER: Final = len(EMOTIONS)
_WIDE: Final = _OTHER + 1
_OFFICIAL: Final = 6 * _WIDE  # first column of the third formula
_INDEX: Final = {emotion: place for place, emotion in enumerate(EMOTIONS)}
# A pair as models write it: spaces, quotes, brackets and ".0" do not matter, nor does a text span after the cause.
_NUMBER: Final = r"(\d{1,6})(?:\.0+)?"
_PAIR: Final = re.compile(
    rf"(?<![\w.]){_NUMBER}\s*_\s*([a-z]+)[\s\"')\]]*,[\s\"'(\[]*(?:u(?:tterance)?[\s_]*)?{_NUMBER}"
    r"(?![\d.]*\s*_\s*[a-z]+[\s\"')\]]*,[\s\"'(\[]*\d)",
    re.ASCII,
)
_NOTHING: Final = re.compile(r"(?:none|null|nothing|no|no (?:cause|pair|emotion)s?|n/a)?")
_TARGET: Final = re.compile(r"\nTarget utterance:(\d{1,6})(?:_([a-z]+)\.|[_.])", re.ASCII)
_FIRST: Final = "Below is a conversation containing multiple utterances from different speakers, \n"
_LABELS: Final = "along with the corresponding emotion label for each utterance. \n"
_TASK: Final = (
    "Your task is to identify the indices of the candidate utterances "
    "that elicited the emotion in the target utterance.\n"
)
_NO_LABELS: Final = (
    "The emotion of the target utterance is one of anger, disgust, fear, joy, sadness or surprise; "
    "if it has none, return nothing.\n"
)
_LAST: Final = (
    'You need to return the answer as, for example, "3_surprise,1", \n'
    "which means that the emotion of surprise in the third sentence is related to the first sentence, \n"
    "and if the emotion is related to more than one sentence, separate the sentences with “;”.\n"
    "The emotion-cause indices of the target utterance are:"
)
_UNPAIRED: Final = Skipped("no-cause-pairs")
_NEUTRAL: Final = Skipped("neutral-target")
_BROKEN: Final = Skipped("cause-quarantined", "repair the clip or row that quarantine.parquet names")
Pair = tuple[int, str, int]
"""(target, emotion, cause)."""
_Dialogue = tuple[dict[int, int], list[str], str]
"""The index of each position, the lines of a dialogue, and what its prompts begin with."""


def line(utterance: Utterance, *, emotions: bool, verbatim: bool = False) -> str:
    """Return ``"3_joy. Monica: text"``; without emotions ``"3. Monica: text"``."""
    number = f"{utterance.position}_{utterance.emotion}" if emotions else str(utterance.position)
    text = f"{utterance.speaker}: {utterance.text}"
    return f"{number}. {text if verbatim else neutralise(text)}"


def prompt(lines: Sequence[str], target: int, *, emotions: bool = True) -> str:
    """Return the prompt for the ``target``-th line (from 0) of a conversation."""
    return _prompt(_opening(lines, emotions=emotions), lines, target)


def _opening(lines: Sequence[str], *, emotions: bool) -> str:
    """Return what the prompts of all of a conversation's targets begin with."""
    head = f"{_FIRST}{_LABELS}{_TASK}" if emotions else f"{_FIRST}{_TASK}{_NO_LABELS}"
    conversation = "\n".join(lines)
    return f"{head}Input conversation:{conversation}\nCandidate utterances:"


def _prompt(opening: str, lines: Sequence[str], target: int) -> str:
    before = "\n".join(lines[:target])
    return f"{opening}{before}\nTarget utterance:{lines[target]}\n{_LAST}"


def answer(utterance: Utterance) -> str:
    """Return the target's pairs joined by ``;`` in the file's order, empty when it has none."""
    causes = utterance.causes if utterance.causes and utterance.emotion != "neutral" else ()
    return ";".join(f"{utterance.position}_{utterance.emotion},{cause}" for cause in causes)


class _CausePairs(Task):
    """Give the emotions, as the authors do."""

    name = "ecpe"
    title = "emotion-cause pairs"
    headline = "pair_f1"
    rank = 4
    shows = "dialogue"
    emotions = True
    takes = (*EMOTIONS, "neutral")
    _last: tuple[Sequence[Utterance], bool, _Dialogue] = ((), False, ({}, [], ""))

    def question(self, context: Context) -> Question | Skipped:
        """Make the question of an utterance in an annotated dialogue; if emotions are given, of an emotional one."""
        utterance, dialogue = context.utterance, context.dialogue
        if utterance.causes is None or utterance.emotion is None:
            return _UNPAIRED
        if utterance.emotion == "neutral" and self.emotions:
            return _NEUTRAL
        index, lines, opening = self._prepared(dialogue, context.verbatim)
        if not index.keys() >= set(utterance.causes):
            return _BROKEN
        target = index[utterance.position]
        right = answer(utterance)
        gold = {
            "answer": right,
            "answers": None,
            "target": utterance.position,
            "emotion": utterance.emotion,
            "previous": dialogue[target - 1].position if target else None,
        }
        return Question(_prompt(opening, lines, target), right, gold)

    def _prepared(self, dialogue: Sequence[Utterance], verbatim: bool) -> _Dialogue:
        """Return what a dialogue's targets, which come one after another, have in common."""
        last, last_verbatim, prepared = self._last
        if last is not dialogue or last_verbatim != verbatim:
            index = {utterance.position: i for i, utterance in enumerate(dialogue)}
            lines = [line(utterance, emotions=self.emotions, verbatim=verbatim) for utterance in dialogue]
            prepared = index, lines, _opening(lines, emotions=self.emotions)
            self._last = dialogue, verbatim, prepared
        return prepared

    def gold(self, answer: str, *, corpus: str, query: str = "") -> dict[str, Any]:
        """Return a published record's gold: target and emotion are read from the answer, else from the query."""
        pairs = parse_pairs(answer)
        target: int | None = None
        emotion: str | None = None
        if pairs:
            target, emotion = pairs[0][:2]
        elif match := _TARGET.search(query):
            target, emotion = int(match[1]), match[2]
        previous = target - 1 if target is not None and target > 1 else None
        return {"answer": answer, "answers": None, "target": target, "emotion": emotion, "previous": previous}

    def parse(self, reply: str, gold: Gold) -> tuple[Pair, ...] | None:
        """Return the pairs of a reply that can be read, () for an empty reply; None if it has none but text."""
        return parse_pairs(reply)

    def flaws(self, reply: str, gold: Gold) -> set[str]:
        """Return ``unparsable``, or ``repeated`` for a reply that names a pair more than once."""
        pairs = parse_pairs(reply)
        return {"unparsable"} if pairs is None else {"repeated"} if len(set(pairs)) < len(pairs) else set()

    def scorer(self, golds: Sequence[Gold]) -> Scorer:
        """Return the scorer of pairs by three formulas."""
        return _PairScorer(golds)

    def baselines(self, golds: Sequence[Gold], trained: Counter[str]) -> dict[str, list[str]]:
        """Name the target as its own cause, and the previous utterance and the target."""
        return _rules("", [str(gold["emotion"]) for gold in golds], golds)

    def default_corpus(self, answers: Iterable[str]) -> str:
        """Return ecf, the corpus with cause pairs."""
        return "ecf"

    def is_trained(self, options: Options) -> bool:
        """Return whether ``amt.ecpe_gold_emotions`` selects this condition."""
        return options.ecpe_gold_emotions in (self.emotions, "both")


class _SemEval(_CausePairs):
    """Give no emotion, as SemEval's subtask 2 does; its leaderboard ranks by the weighted F1."""

    name = "ecpe_semeval"
    title = "emotion-cause pairs, emotions not given"
    headline = "official_weighted_f1"
    rank = 5
    emotions = False

    def baselines(self, golds: Sequence[Gold], trained: Counter[str]) -> dict[str, list[str]]:
        """Give every target the most frequent emotion, caused by itself, or by the previous one and itself."""
        emotion = _commonest(trained) or _commonest(Counter(str(gold["answer"]) for gold in golds)) or EMOTIONS[0]
        return _rules("commonest emotion, ", [emotion] * len(golds), golds)


def _rules(prefix: str, emotions: Sequence[str], golds: Sequence[Gold]) -> dict[str, list[str]]:
    """Return the replies of the two trivial rules."""
    rules = {"target itself": ("target",), "previous + target": ("previous", "target")}
    return {prefix + name: list(map(_reply, golds, emotions, [keys] * len(golds))) for name, keys in rules.items()}


def _reply(gold: Gold, emotion: str, keys: Sequence[str]) -> str:
    return ";".join(f"{gold['target']}_{emotion},{gold[key]}" for key in keys if gold[key] is not None)


def _commonest(answers: Counter[str]) -> str:
    """Return the emotion of most targets, ties by code point; empty when no target has one."""
    counted: Counter[str] = Counter()
    for text, count in answers.items():
        if pairs := parse_pairs(text):
            counted[pairs[0][1]] += count
    return min(counted, key=lambda emotion: (-counted[emotion], emotion), default="")


@lru_cache(maxsize=1 << 14)  # a file repeats few answers, and gold, reply and baselines are each read several times
def parse_pairs(reply: str) -> tuple[Pair, ...] | None:
    """Read ``"3_joy,1;3_joy,3"``, in whatever a model puts around and between the pairs.

    Returns:
        The pairs that can be read, in order, repeats included; () for an empty reply or one that says "none"; None if
        there is text but no pair in it.
    """
    text = final_text(reply)
    if text is None:
        return None
    text = normalise(text)
    groups = synonym_groups()
    pairs = [(int(m[1]), groups.get(m[2], m[2]), int(m[3])) for m in _PAIR.finditer(text)]
    if pairs:
        return tuple(pairs)
    return () if _NOTHING.fullmatch(text.strip(" \n\t\r\"'`.;()[]{}*")) else None


class _PairScorer(Scorer):
    """Count pairs by three formulas. Columns: per formula hits, predicted and gold by six emotions and other.

    ``pair_``: one set of pairs per record, records without a gold pair skipped; the headline. ``authors_``: the same
    by the authors' code: parts of the reply split at ``;``, compared as strings, repeats counted each time, so that it
    can exceed 1. ``official_``: SemEval's ``evaluate_2_2``: one set of pairs per conversation (the gold's ``group``,
    by default the record), the six emotions only; a pair that several replies name counts for the first of them. Two
    last columns: 1 and unparsable.
    """

    def __init__(self, golds: Sequence[Gold]) -> None:
        super().__init__(golds)
        texts = [str(gold["answer"] or "") for gold in self.golds]
        answers = [set(parse_pairs(text) or ()) for text in texts]
        groups = [gold.get("group") or i for i, gold in enumerate(self.golds)]
        of_group: defaultdict[Any, set[Pair]] = defaultdict(set)
        for group, pairs in zip(groups, answers, strict=True):
            of_group[group] |= pairs
        self._records = [(text, group, of_group[group]) for text, group in zip(texts, groups, strict=True)]
        # what the gold adds to the third formula's last row, whatever the reply is
        columns = [_OFFICIAL + 2 * _WIDE + _index(pair) for pairs in answers for pair in pairs]
        self._gold = self._count_pairs(columns, list(map(len, answers)))

    def counts(self, replies: Sequence[str]) -> Numbers:
        """Return an (n, 65) array."""
        self.check(replies)
        columns: list[int] = []  # what to count up, and how many of them are each record's: numpy counts them at once
        lengths: list[int] = []
        unparsable = np.zeros(self.size)
        named: defaultdict[Any, set[Pair]] = defaultdict(set)
        for i, ((answer, group, group_pairs), reply) in enumerate(zip(self._records, replies, strict=True)):
            before, seen = len(columns), named[group]
            if answer:
                columns += _record_columns(answer, reply)
            pairs = parse_pairs(reply)
            if pairs is None:
                unparsable[i], pairs = 1.0, ()
            for pair in pairs:
                if pair not in seen:
                    seen.add(pair)
                    column = _OFFICIAL + _index(pair)
                    columns += (column, column + _WIDE) if pair in group_pairs else (column + _WIDE,)
            lengths.append(len(columns) - before)
        return np.column_stack([self._count_pairs(columns, lengths) + self._gold, np.ones(self.size), unparsable])

    def _count_pairs(self, columns: Sequence[int], lengths: Sequence[int]) -> Numbers:
        """Return an (n, 63) array: how often each record's columns, ``lengths`` of them, occur."""
        width = 9 * _WIDE
        starts = np.repeat(np.arange(self.size) * width, np.array(lengths, np.int64))
        counts = np.bincount(starts + np.array(columns, np.int64), minlength=width * self.size)
        return counts.reshape(self.size, width).astype(np.float64)

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Return precision, recall, F1, weighted F1 and each emotion's F1 by each formula, under its prefix."""
        formulas = totals[..., :-2].reshape(*totals.shape[:-1], 3, 3, _WIDE)
        scores: dict[str, Numbers] = {}
        names = (("pair_", "f1"), ("authors_", "authors_f1"), ("official_", "official_f1"))
        for i, (prefix, classes) in enumerate(names):
            six = formulas[..., i, :, :-1]
            official = prefix == "official_"
            hits, predicted, gold = np.moveaxis((six if official else formulas[..., i, :, :]).sum(-1), -1, 0)
            name = "official_micro_" if official else prefix
            scores[f"{name}precision"] = ratio(hits, predicted)
            scores[f"{name}recall"] = ratio(hits, gold)
            scores[f"{name}f1"] = f1(hits, predicted, gold)
            each, weight = f1(*np.moveaxis(six, -2, 0)), six[..., 2, :]
            scores[f"{prefix}weighted_f1"] = ratio((each * weight).sum(-1), weight.sum(-1))
            scores |= {f"{classes}/{emotion}": each[..., k] for k, emotion in enumerate(EMOTIONS)}
        scores["unparsable"] = ratio(totals[..., -1], totals[..., -2])
        return scores


@lru_cache(maxsize=1 << 16)
def _record_columns(answer: str, reply: str) -> tuple[int, ...]:
    """Return which of the first two formulas' columns, (2, 3, 7) flattened, one record adds to."""
    right, predicted = set(parse_pairs(answer) or ()), set(parse_pairs(reply) or ())
    sets = [
        row * _WIDE + _index(pair) for row, pairs in enumerate((right & predicted, predicted, right)) for pair in pairs
    ]
    gold, parts = answer.split(";"), (final_text(reply) or "").split(";")
    rows = ((4, parts), (3, [part for part in parts if part in gold]), (5, gold))
    return (*sets, *(row * _WIDE + _INDEX.get(_emotion(part), _OTHER) for row, texts in rows for part in texts))


def _index(pair: Pair) -> int:
    return _INDEX.get(pair[1], _OTHER)


def _emotion(part: str) -> str:
    """Return the emotion of ``"3_joy,1"`` as the authors' code does; empty where it would raise IndexError."""
    pieces = part.split(",")[0].split("_")
    return pieces[1] if len(pieces) > 1 else ""


TASK = _CausePairs()
CONDITIONS = (_SemEval(),)
