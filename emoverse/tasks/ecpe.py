"""Ask which utterances caused the target's emotion (emotion-cause pair extraction), as in SemEval-2024 task 3.

The prompt of ``ecpe`` is the authors', to the letter. It prints every utterance's gold emotion, and its candidates
leave out the target and what follows, although half the gold causes are the target itself. ``ecpe_semeval`` asks what
SemEval's subtask 2 asks: no emotion is given, and every utterance is a target, neutral ones included, whose answer is
empty. An answer is ``"3_joy,1;3_joy,3"``: target_emotion,cause, pairs in the file's order.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np

from emoverse.corpora.base import Utterance
from emoverse.tasks.base import (
    Confusion,
    Gold,
    LeftOut,
    Numbers,
    Question,
    Scene,
    Scorer,
    expect,
    f1,
    neutralise,
    ratio,
)

EMOTIONS: Final = ("disgust", "anger", "joy", "sadness", "surprise", "fear")
_WIDE: Final = len(EMOTIONS) + 1
_PLACE: Final = {emotion: place for place, emotion in enumerate(EMOTIONS)}
_PAIR: Final = re.compile(r"^(\d{1,6})_([a-z]+),(\d{1,6})$", re.ASCII)
_TARGET: Final = re.compile(r"\nTarget utterance:(\d{1,6})[_.](?:([a-z]+)\.)?", re.ASCII)
_FIRST: Final = "Below is a conversation containing multiple utterances from different speakers, \n"
_LABELS: Final = "along with the corresponding emotion label for each utterance. \n"
_TASK: Final = (
    "Your task is to identify the indices of the candidate utterances "
    "that elicited the emotion in the target utterance.\n"
)
_UNTOLD: Final = (
    "The emotion of the target utterance is one of anger, disgust, fear, joy, sadness or surprise; "
    "if it has none, return nothing.\n"
)
_LAST: Final = (
    'You need to return the answer as, for example, "3_surprise,1", \n'
    "which means that the emotion of surprise in the third sentence is related to the first sentence, \n"
    "and if the emotion is related to more than one sentence, separate the sentences with “;”.\n"
    "The emotion-cause indices of the target utterance are:"
)
_UNPAIRED: Final = LeftOut("no-cause-pairs")
_NEUTRAL: Final = LeftOut("neutral-target")
_BROKEN: Final = LeftOut("cause-quarantined", "mend the clip or row that quarantine.parquet names")
Pair = tuple[int, str, int]
"""(target, emotion, cause)."""
_Written = tuple[dict[int, int], list[str], str]
"""The place of each position, the lines of a dialogue, and what its prompts begin with."""


def line(utterance: Utterance, *, emotions: bool, verbatim: bool = False) -> str:
    """Return ``"3_joy. Monica: text"``; without emotions ``"3. Monica: text"``."""
    number = f"{utterance.position}_{utterance.emotion}" if emotions else str(utterance.position)
    words = f"{utterance.speaker}: {utterance.text}"
    return f"{number}. {words if verbatim else neutralise(words)}"


def prompt(lines: Sequence[str], target: int, *, emotions: bool = True) -> str:
    """Return the prompt for the ``target``-th line (from 0) of a conversation."""
    return _prompt(_opening(lines, emotions=emotions), lines, target)


def _opening(lines: Sequence[str], *, emotions: bool) -> str:
    """Return what the prompts of all of a conversation's targets begin with."""
    head = f"{_FIRST}{_LABELS}{_TASK}" if emotions else f"{_FIRST}{_TASK}{_UNTOLD}"
    every = "\n".join(lines)
    return f"{head}Input conversation:{every}\nCandidate utterances:"


def _prompt(opening: str, lines: Sequence[str], target: int) -> str:
    before = "\n".join(lines[:target])
    return f"{opening}{before}\nTarget utterance:{lines[target]}\n{_LAST}"


def answer(utterance: Utterance) -> str:
    """Return the target's pairs joined by ``;`` in the file's order, empty when it has none."""
    causes = utterance.causes if utterance.causes and utterance.emotion != "neutral" else ()
    return ";".join(f"{utterance.position}_{utterance.emotion},{cause}" for cause in causes)


class _Ecpe:
    """Give the emotions, as the authors do."""

    name = "ecpe"
    title = "emotion-cause pairs"
    headline = "f1"
    emotions = True
    _last: tuple[Sequence[Utterance], bool, _Written] = ((), False, ({}, [], ""))
    media: Literal["clip", "peak"] = "clip"
    shows: Literal["utterance", "dialogue"] = "dialogue"

    def ask(self, scene: Scene) -> Question | LeftOut:
        """Make the question of an utterance in an annotated dialogue; where emotions are given, of an emotional one."""
        one, dialogue = scene.utterance, scene.dialogue
        if one.causes is None or one.emotion is None:
            return _UNPAIRED
        if one.emotion == "neutral" and self.emotions:
            return _NEUTRAL
        known, lines, opening = self._written(dialogue, scene.verbatim)
        if not known.keys() >= set(one.causes):
            return _BROKEN
        target = known[one.position]
        previous = dialogue[target - 1].position if target else None
        right = answer(one)
        gold = {
            "answer": right, "answers": None, "target": one.position, "emotion": one.emotion, "previous": previous,
        }  # fmt: skip
        return Question(_prompt(opening, lines, target), right, gold)

    def _written(self, dialogue: Sequence[Utterance], verbatim: bool) -> _Written:
        """Return what a dialogue's targets, which come one after another, have in common."""
        held, verbatim_held, found = self._last
        if held is not dialogue or verbatim_held != verbatim:
            places = {one.position: i for i, one in enumerate(dialogue)}
            lines = [line(one, emotions=self.emotions, verbatim=verbatim) for one in dialogue]
            found = places, lines, _opening(lines, emotions=self.emotions)
            self._last = dialogue, verbatim, found
        return found

    def gold(self, answer: str, *, corpus: str, query: str = "") -> dict[str, Any]:
        """Return a published record's gold: target and emotion are read from the answer, else from the query."""
        found = parse_pairs(answer)
        target: int | None = None
        emotion: str | None = None
        if found:
            target, emotion = found[0][:2]
        elif told := _TARGET.search(query):
            target = int(told[1])
            worded = re.match(r"\d+_([a-z]+)\.", query[told.start(1) :])
            emotion = worded[1] if worded else None
        previous = target - 1 if target is not None and target > 1 else None
        return {"answer": answer, "answers": None, "target": target, "emotion": emotion, "previous": previous}

    def parse(self, reply: str, gold: Gold) -> tuple[Pair, ...] | None:
        """Return the pairs of a reply, () for an empty one; None when a part is not ``target_emotion,cause``."""
        return parse_pairs(reply)

    def scorer(self, golds: Sequence[Gold]) -> Scorer:
        """Return the scorer of pairs, the authors' way and SemEval's."""
        return _PairScorer(golds)

    def baselines(self, golds: Sequence[Gold], trained: Counter[str]) -> dict[str, list[str]]:
        """Give the target itself as its cause, and the previous utterance and the target."""
        alone = [_reply(gold, gold["emotion"], (gold["target"],)) for gold in golds]
        both = [_reply(gold, gold["emotion"], (gold["previous"], gold["target"])) for gold in golds]
        return {"target itself": alone, "previous + target": both}


class _SemEval(_Ecpe):
    """Give no emotion, as SemEval's subtask 2; its leaderboard goes by the weighted F1."""

    name = "ecpe_semeval"
    title = "emotion-cause pairs, emotions not given"
    headline = "official_weighted_f1"
    emotions = False

    def baselines(self, golds: Sequence[Gold], trained: Counter[str]) -> dict[str, list[str]]:
        """Say that every target has the commonest emotion, with itself, or the previous one and itself, as causes."""
        emotion = _commonest(trained) or _commonest(Counter(str(gold["answer"]) for gold in golds)) or EMOTIONS[0]
        alone = [_reply(gold, emotion, (gold["target"],)) for gold in golds]
        both = [_reply(gold, emotion, (gold["previous"], gold["target"])) for gold in golds]
        return {"commonest emotion, target itself": alone, "commonest emotion, previous + target": both}


def _reply(gold: Gold, emotion: str, causes: Sequence[int | None]) -> str:
    return ";".join(f"{gold['target']}_{emotion},{cause}" for cause in causes if cause is not None)


def _commonest(answers: Counter[str]) -> str:
    """Return the emotion of most targets, the first by code point among equals; empty when no target has one."""
    seen: Counter[str] = Counter()
    for text, count in answers.items():
        if pairs := parse_pairs(text):
            seen[pairs[0][1]] += count
    return min(seen, key=lambda emotion: (-seen[emotion], emotion), default="")


@lru_cache(maxsize=1 << 14)  # a file repeats few answers, and gold, reply and baselines are each read several times
def parse_pairs(reply: str) -> tuple[Pair, ...] | None:
    """Read ``"3_joy,1;3_joy,3"``; spaces, quotes, a final full stop and the full-width ``；`` are forgiven."""
    words = reply.replace("；", ";").strip().strip("\"'“”.; ").lower()
    if not words:
        return () if not reply.strip(" \n\t\"'“”.;；") else None
    found: list[Pair] = []
    for part in words.split(";"):
        match = _PAIR.match(re.sub(r"\s+", "", part))
        if match is None:
            return None
        found.append((int(match[1]), match[2], int(match[3])))
    return tuple(found)


class _PairScorer:
    """Count pairs two ways. Columns: per way (authors, official) hits, predicted and gold by six emotions and other.

    The authors' way: parts of the reply split at ``;``, compared as strings, repeats counted each time, records
    without a gold pair skipped. SemEval's ``evaluate_2_2``: one set of pairs a conversation (the gold's ``group``, by
    default the record), the six emotions only; a pair that several replies name counts where it is named first. Two
    last columns: 1 and unparsable.
    """

    def __init__(self, golds: Sequence[Gold]) -> None:
        self.golds = list(golds)
        self._whose = [gold.get("group") or i for i, gold in enumerate(self.golds)]
        self._answers = [parse_pairs(str(gold["answer"])) or () for gold in self.golds]
        self._right: defaultdict[Any, set[Pair]] = defaultdict(set)
        for whose, pairs in zip(self._whose, self._answers, strict=True):
            self._right[whose].update(pairs)

    @property
    def size(self) -> int:
        """Return the number of records."""
        return len(self.golds)

    def counts(self, replies: Sequence[str]) -> Numbers:
        """Return an (n, 44) array."""
        expect(replies, self.size)
        ones: list[int] = []  # flat places to count up: numpy is slow one number at a time
        lost = np.zeros(self.size)
        half = 3 * _WIDE
        named: defaultdict[Any, set[Pair]] = defaultdict(set)
        for i, (gold, whose, reply) in enumerate(zip(self.golds, self._whose, replies, strict=True)):
            pairs = parse_pairs(reply)
            lost[i] = pairs is None
            ones += _authors(2 * half * i, str(gold["answer"]), reply)
            said = set(pairs or ()) - named[whose]
            named[whose] |= said
            ones += _official(2 * half * i + half, set(self._answers[i]), said, said & self._right[whose])
        found = np.bincount(np.array(ones, np.int64), minlength=2 * half * self.size).reshape(self.size, -1)
        return np.column_stack([found, np.ones(self.size), lost])

    def scores(self, totals: Numbers) -> dict[str, Numbers]:
        """Return precision, recall, F1, weighted F1 and each emotion's F1 both ways; the authors' have no prefix."""
        both = totals[..., :-2].reshape(*totals.shape[:-1], 2, 3, _WIDE)
        scores: dict[str, Numbers] = {}
        for way, prefix, six in ((0, "", False), (1, "official_", True)):
            counts = both[..., way, :, :-1] if six else both[..., way, :, :]
            hits, predicted, gold = (counts[..., j, :].sum(-1) for j in range(3))
            scores[f"{prefix}precision"] = ratio(hits, predicted)
            scores[f"{prefix}recall"] = ratio(hits, gold)
            scores[f"{prefix}f1"] = f1(hits, predicted, gold)
            each, weight = f1(*(both[..., way, j, :-1] for j in range(3))), both[..., way, 2, :-1]
            scores[f"{prefix}weighted_f1"] = ratio((each * weight).sum(-1), weight.sum(-1))
            for k, emotion in enumerate(EMOTIONS):
                scores[f"{prefix}f1/{emotion}"] = each[..., k]
        scores["unparsable"] = ratio(totals[..., -1], totals[..., -2])
        return scores

    def confusion(self, totals: Numbers) -> Confusion | None:
        """Return None: pairs have no confusion matrix."""
        return None


def _authors(start: int, answer: str, reply: str) -> list[int]:
    """Return where one record's string parts count in its hits, predicted and gold (3, 7), which begin at ``start``."""
    if not answer:
        return []
    gold, said = answer.split(";"), reply.split(";")
    found = [start + 2 * _WIDE + _column(_word(part)) for part in gold]
    found += [start + _WIDE + _column(_word(part)) for part in said]
    return found + [start + _column(_word(part)) for part in said if part in gold]


def _official(start: int, gold: set[Pair], said: set[Pair], hits: set[Pair]) -> list[int]:
    """Return where one record's sets of pairs count in its (3, 7) hits, predicted and gold, beginning at ``start``."""
    sets = enumerate((hits, said, gold))
    return [start + row * _WIDE + _column(pair[1]) for row, pairs in sets for pair in pairs]


@lru_cache(maxsize=1 << 14)
def _word(part: str) -> str:
    """Return the emotion of ``"3_joy,1"`` as the authors find it; empty where their code would raise IndexError."""
    pieces = part.split(",")[0].split("_")
    return pieces[1] if len(pieces) > 1 else ""


def _column(emotion: str) -> int:
    return _PLACE.get(emotion, len(EMOTIONS))


TASK = _Ecpe()
CONDITIONS = (_SemEval(),)
