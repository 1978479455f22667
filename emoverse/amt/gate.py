"""Stop before any GPU time is spent: leakage, an empty split, a split with one class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from emoverse.amt.leakage import Leak
from emoverse.amt.mixture import Stage
from emoverse.errors import UserError

Answers = Mapping[tuple[str, str, str], Counter[str]]
"""Counted answers, or reasons why there is no row, by (stage or split, corpus, task)."""
_SHOWN = 5


def check_asked(stages: Sequence[Stage]) -> None:
    """Raise UserError for a stage that asks for nothing: it could not be trained."""
    for stage in stages:
        if not stage.asked or not stage.corpora:
            what = "no task a weight above 0" if not stage.asked else "no corpus"
            remedy = "give it one, as in `emoverse profile sample --out FILE`"
            raise UserError(f"gives {what}, so there is nothing to train on", place=f"amt.{stage.name}", remedy=remedy)


def check_leaks(leaks: Sequence[Leak], policy: Literal["fail", "drop", "report"]) -> None:
    """Raise UserError when there are leaks and the policy is to fail."""
    if not leaks or policy != "fail":
        return
    shown = "; ".join(f"{leak.utterance_id} is {leak.test_id} ({leak.sign})" for leak in leaks[:_SHOWN])
    more = f"; and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
    problem = f"{len(leaks)} train or validation utterances are test utterances too: {shown}{more}"
    raise UserError(problem, place="amt.leakage", remedy="set it to drop, or to report if you mean it")


def check_splits(
    stages: Sequence[Stage],
    answers: Answers,
    left_out: Answers,
    closed: set[str],
    remedies: Mapping[str, str],
    tolerated: Collection[str] = (),
) -> list[str]:
    """Check that every requested task can be trained and scored; return warnings, or raise UserError with all faults.

    ``remedies`` maps reasons to what would change them; a task all of whose rows are left out for ``tolerated`` reasons
    is a warning.
    """
    problems: list[str] = []
    warnings: list[str] = []
    for where, corpora, name in _wanted(stages):
        key = "test" if where == "test" else where
        by_corpus = {corpus: answers.get((key, corpus, name), Counter()) for corpus in corpora}
        total = sum(by_corpus.values(), Counter())
        reasons = sum((left_out.get((key, corpus, name), Counter()) for corpus in corpora), Counter())
        if not total:
            kind = warnings if reasons and reasons.keys() <= set(tolerated) else problems
            kind.append(_empty(where, name, reasons, remedies))
        elif name in closed:
            # A stage trains on the sum of its corpora; a test file is scored by itself.
            parts = by_corpus if where == "test" else {"+".join(corpora): total}
            problems += [
                f"{where} {name} of {corpus} has one class only, {next(iter(part))!r} in {part.total()} rows"
                for corpus, part in parts.items()
                if len(part) == 1
            ]
    if problems:
        remedy = "add annotated rows, or remove the task or the corpus from the mixture"
        raise UserError("; ".join(problems), place="amt", remedy=remedy)
    return warnings


def _wanted(stages: Sequence[Stage]) -> Iterable[tuple[str, tuple[str, ...], str]]:
    """Yield (stage or ``test``, corpora, task) for everything the mixtures ask for."""
    tested: dict[str, set[str]] = {}
    for stage in stages:
        for name in sorted(name for name, weight in stage.weights.items() if weight > 0):
            yield stage.name, stage.corpora, name
            tested.setdefault(name, set()).update(stage.corpora)
    for name, corpora in sorted(tested.items()):
        yield "test", tuple(sorted(corpora)), name


def _empty(where: str, name: str, reasons: Counter[str], remedies: Mapping[str, str]) -> str:
    why = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "no utterance was picked"
    hints = "; ".join(remedies[reason] for reason in sorted(reasons) if reason in remedies)
    return f"{where} has no {name} rows ({why})" + (f": {hints}" if hints else "")
