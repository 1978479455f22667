"""The step ``evaluate``: score a model on every test set of AMT, beside baselines and controls, with intervals."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from emoverse.artifacts.manifest import open_source, open_validated, publish, write_json
from emoverse.artifacts.tables import write_csv
from emoverse.config import EvaluateParams, plain
from emoverse.errors import UserError
from emoverse.evaluation.score_file import published_beside
from emoverse.evaluation.scoring import (
    Scores,
    expected_error,
    groups_of,
    interval,
    main_names,
    pooled,
    posterior,
    reliability,
    scorable,
    score,
    stable,
    warnings_of,
)
from emoverse.inference.engine import Engine, EngineName, open_engine
from emoverse.inference.test_sets import AmtRow, EvaluationSet, check_frames, read_sets
from emoverse.media.frames import FrameStore
from emoverse.tasks import FLAWS, Confusion, mute
from emoverse.tasks import task as task_named

LIBRARIES: Final[dict[EngineName, tuple[str, ...]]] = {
    "torch": ("torch", "transformers"),
    "onnx": ("onnxruntime-gpu",),
}
Answered = tuple[NDArray[np.float64], NDArray[np.int64]]


def evaluate(
    model: Path,
    amt: Path,
    validated: Sequence[Path],
    out: Path,
    params: EvaluateParams,
) -> None:
    """Ask the model every test question and publish metrics, predictions and plots at ``out``.

    Args:
        model: Output of train or base-model, or (engine ``onnx``) of export.
        amt: Output of build-amt.
        validated: Outputs of validate with the frames that the test rows show.
        out: Folder to publish.
        params: Section ``evaluate``.

    Raises:
        UserError: An input is unfinished or unsuitable.
    """
    sources = {"model": open_source(model), "amt": open_source(amt, made_by="build-amt")}
    sources |= open_validated(validated)
    sets, trivial = read_sets(amt), trivial_scores(amt)
    if not sets:
        raise UserError("every test set is empty", place=str(amt), remedy="look at its audit.json")
    frames = FrameStore(list(validated))
    check_frames(sets, frames)
    with publish(
        out,
        step="evaluate",
        params=plain(params),
        inputs=sources,
        libraries=("numpy", "tokenizers", *LIBRARIES[params.engine]),
    ) as draft:
        started = time.perf_counter()
        engine = open_engine(
            params.engine,
            model,
            frames,
            batch_size=params.batch_size,
            device=params.device,
            threads=params.threads,
        )
        draft.run["load_seconds"] = time.perf_counter() - started
        measured: list[Measured] = []
        for test in sets:
            started, engine.label = time.perf_counter(), test.name
            measured.append(measure(test, collect(engine, test, params), trivial.get(test.name, {}), params))
            draft.run[test.name] = time.perf_counter() - started
            print(_line(measured[-1], draft.run[test.name]), flush=True)
            for warning in warnings_of(measured[-1].scores, test.ids, measured[-1].replies.replies):
                print(f"warning: {test.name}: {warning}", file=sys.stderr, flush=True)
        _write_results(draft.path, measured)
        if (model / "validation.json").is_file():  # beside the test scores, for whoever chooses between models
            shutil.copyfile(model / "validation.json", draft.path / "validation.json")
        rows = sum(len(test.rows) for test in sets)
        draft.count(rows_in=rows, rows_out=rows)
        draft.seeds = {"evaluate": params.seed}


def _write_results(folder: Path, measured: Sequence[Measured]) -> None:
    (folder / "predictions").mkdir()
    (folder / "plots").mkdir()
    figures: list[dict[str, Any]] = []
    for part in measured:
        write_jsonl(folder / "predictions" / f"{part.test.name}.jsonl", prediction_rows(part.test, part.replies))
        write_plots(part, folder / "plots")
        figures += published_beside(part.test.corpus, part.test.task, part.scores.values, part.scores.n)
    write_json(folder / "metrics.json", metrics(measured))
    write_json(folder / "published.json", figures)


def _line(part: Measured, seconds: float) -> str:
    scores = part.scores
    low, high = scores.interval()
    parts = [f"{part.test.name:<16} n {scores.n:>5}  {scores.headline} {scores.values[scores.headline]:.3f}"]
    parts += [f"[{low:.3f}, {high:.3f}]", f"baseline {part.baseline:.3f}"]
    parts += [f"{name} {control.values[scores.headline]:.3f}" for name, control in part.controls.items()]
    parts += [f"{flaw} {len(indices)}" for flaw, indices in scores.flaws.items() if indices]
    return "  ".join([*parts, f"{seconds:.1f} s"])


@dataclass(frozen=True)
class Replies:
    """A model's replies to each row of a test set, in its order.

    ``probabilities`` is (n, answers), None for an open task or when answers were generated. ``controls`` maps a
    control to its replies, ``generated`` each row of the agreement sample to the reply of greedy decoding.
    """

    replies: list[str]
    probabilities: NDArray[np.float64] | None = None
    controls: dict[str, list[str]] = field(default_factory=dict)
    generated: dict[int, str] = field(default_factory=dict)


def collect(engine: Engine, test: EvaluationSet, params: EvaluateParams) -> Replies:
    """Ask every row of a test set: by likelihood if its answers are a closed list, else by generation."""
    rows, answers = list(test.rows), test.answers
    if not answers:
        return Replies(engine.generate(rows, params.max_new_tokens))
    controls: dict[str, list[AmtRow]] = {name: [CONTROLS[name](row) for row in rows] for name in params.controls}
    if params.closed == "generation":
        replies = {name: engine.generate(changed, params.max_new_tokens) for name, changed in controls.items()}
        return Replies(engine.generate(rows, params.max_new_tokens), None, replies)
    likelihoods, chosen = _finite(engine.score_answers(rows, answers), test)
    replies = {
        name: _answer_texts(_finite(engine.score_answers(changed, answers), test)[1], answers)
        for name, changed in controls.items()
    }
    sample = agreement_sample(len(rows), params)
    generated = engine.generate([rows[i] for i in sample], params.max_new_tokens)
    return Replies(
        _answer_texts(chosen, answers), posterior(likelihoods), replies, dict(zip(sample, generated, strict=True))
    )


def _finite(answered: Answered, test: EvaluationSet) -> Answered:
    """Return likelihoods and choices unchanged; raise UserError for a likelihood that is not a finite number."""
    bad = np.flatnonzero(~np.isfinite(answered[0]).all(axis=1))
    if len(bad):
        problem = f"the model gives likelihoods that are not finite numbers, in {len(bad)} of {len(test.rows)} rows"
        remedy = "look for NaN or Inf in the model's weights, and try another precision"
        raise UserError(problem, place=f"{test.name}: {test.ids[bad[0]]}", remedy=remedy)
    return answered


def agreement_sample(n: int, params: EvaluateParams) -> list[int]:
    """Draw which rows are also answered by generation, in ascending order."""
    if n <= params.agreement:
        return list(range(n))
    rng = np.random.default_rng(params.seed)
    return sorted(int(i) for i in rng.choice(n, params.agreement, replace=False))


def _answer_texts(chosen: NDArray[np.int64], answers: tuple[str, ...]) -> list[str]:
    return [answers[i] for i in chosen]


def prediction_rows(test: EvaluationSet, replies: Replies) -> list[dict[str, Any]]:
    """Return one row per record: ``channel``, ``labels`` and ``response`` as in ms-swift, ``gold``, our own keys."""
    rows: list[dict[str, Any]] = []
    for i, (source, reply) in enumerate(zip(test.rows, replies.replies, strict=True)):
        gold = source["gold"]
        row = {"channel": source["channel"], "labels": gold["answer"], "response": reply, "gold": gold}
        if replies.probabilities is not None:
            shares = (round(float(p), 4) + 0.0 for p in replies.probabilities[i])
            row["probabilities"] = dict(zip(test.answers, shares, strict=True))
        if replies.controls:
            row["controls"] = {name: texts[i] for name, texts in replies.controls.items()}
        if i in replies.generated:
            row["generated"] = replies.generated[i]
        rows.append(row)
    return rows


def text_only(row: Mapping[str, Any]) -> AmtRow:
    """Return the row with mid-grey frames: only the transcript is left."""
    blank = {kind: [f"{reference}#blank" for reference in row.get(kind, ())] for kind in ("videos", "images")}
    return {**row, **blank}


def face_only(row: Mapping[str, Any]) -> AmtRow:
    """Return the row with ``...`` for the transcript: only the clip is left.

    Raises:
        ValueError: The row does not quote exactly one transcript.
    """
    muted = [mute(message["content"]) if message["role"] == "user" else None for message in row["messages"]]
    if (count := sum(text is not None for text in muted)) != 1:
        raise ValueError(f"{row['channel']}: {count} transcripts to blank, expected 1")
    pairs = zip(row["messages"], muted, strict=True)
    return {**row, "messages": [message if text is None else {**message, "content": text} for message, text in pairs]}


CONTROLS: Final[dict[str, Callable[[Mapping[str, Any]], AmtRow]]] = {"text-only": text_only, "face-only": face_only}


def trivial_scores(amt: Path) -> dict[str, dict[str, float]]:
    """Return the headline score of each trivial predictor by test set, from build-amt's ``baselines.json``.

    Its majority is that of the train rows, which a predictor can know.
    """
    tree = json.loads((amt / "baselines.json").read_text("utf-8"))
    return {
        name: {kind: float(row["scores"][test["headline"]]) for kind, row in test["baselines"].items()}
        for name, test in tree.items()
    }


@dataclass(frozen=True)
class Measured:
    """One scored test set: the model, each control, each baseline, and the model's calibration."""

    test: EvaluationSet
    replies: Replies
    scores: Scores
    controls: dict[str, Scores]
    baselines: dict[str, float]
    reliability: list[dict[str, Any]]
    agreement: float | None

    @property
    def baseline(self) -> float:
        """Return the best trivial predictor's headline score."""
        return max(self.baselines.values(), default=0.0)


def measure(test: EvaluationSet, replies: Replies, baselines: Mapping[str, float], params: EvaluateParams) -> Measured:
    """Score a test set's replies and controls on the same resamples.

    Args:
        test: The test set.
        replies: The model's replies to it, and to its controls.
        baselines: Headline score of each trivial predictor by name.
        params: Section ``evaluate``.
    """
    golds, groups = test.golds, groups_of(test.golds, test.ids)

    def scored(texts: Sequence[str]) -> Scores:
        return score(test.task, golds, texts, groups=groups, bootstrap=params.bootstrap, seed=params.seed)

    bins: list[dict[str, Any]] = []
    if replies.probabilities is not None:
        counted = scorable(test.task, task_named(test.task).scorer(golds), golds)
        correct = np.array([reply == gold["answer"] for reply, gold in zip(replies.replies, golds, strict=True)])
        pairs = zip(replies.replies, replies.probabilities, strict=True)
        confidence = np.array([_probability(reply, test.answers, row) for reply, row in pairs])
        bins = reliability(confidence[counted], correct[counted])
    same = [reply == replies.replies[i] for i, reply in replies.generated.items()]
    return Measured(
        test,
        replies,
        scored(replies.replies),
        {name: scored(texts) for name, texts in replies.controls.items()},
        dict(baselines),
        bins,
        sum(same) / len(same) if same else None,
    )


def _probability(reply: str, answers: Sequence[str], row: NDArray[np.float64]) -> float:
    return float(row[answers.index(reply)]) if reply in answers else 0.0


def metrics(all_sets: Sequence[Measured]) -> dict[str, Any]:
    """Return nested numbers for `dvc metrics`: each task over its corpora, then ``tests.<corpus>-<task>``."""
    tree: dict[str, Any] = {}
    for task in sorted({part.test.task for part in all_sets}):
        tree[task] = _task_numbers([part for part in all_sets if part.test.task == task])
    return {**tree, "tests": {part.test.name: _set_numbers(part) for part in all_sets}}


def _task_numbers(parts: Sequence[Measured]) -> dict[str, Any]:
    scores = [part.scores for part in parts]
    numbers: dict[str, Any] = {"n": sum(s.n for s in scores)}
    numbers |= {flaw: sum(len(s.flaws[flaw]) for s in scores) for flaw in FLAWS}
    for name in _shared_names(scores):
        numbers[name] = stable(pooled(scores, name)[0])
    head = scores[0].headline
    low, high = interval(pooled(scores, head)[1])
    weights = np.array([s.scored for s in scores], np.float64)
    numbers |= {"low": stable(low), "high": stable(high)}
    numbers["baseline"] = stable(np.average([p.baseline for p in parts], weights=weights) if weights.sum() else 0.0)
    for name in parts[0].controls:
        value, samples = pooled([part.controls[name] for part in parts], head)
        low, high = interval(samples)
        numbers |= {
            _control_key(name): stable(value),
            f"{_control_key(name)}_low": stable(low),
            f"{_control_key(name)}_high": stable(high),
        }
    return numbers


def _set_numbers(part: Measured) -> dict[str, Any]:
    scores = part.scores
    low, high = scores.interval()
    numbers: dict[str, Any] = {
        "n": scores.n,
        "scored": scores.scored,
        "headline": stable(scores.values[scores.headline]),
        **{flaw: len(indices) for flaw, indices in scores.flaws.items()},
        **{name: stable(scores.values[name]) for name in main_names(scores)},
        "low": stable(low),
        "high": stable(high),
        "baseline": {name: stable(value) for name, value in part.baselines.items()},
        "detail": {name: stable(value) for name, value in scores.values.items() if "/" in name},
    }
    numbers |= {_control_key(name): stable(control.values[scores.headline]) for name, control in part.controls.items()}
    if part.reliability:
        numbers["calibration_error"] = stable(expected_error(part.reliability))
    if part.agreement is not None:
        numbers["agreement"] = stable(part.agreement)
        parse, golds = task_named(part.test.task).parse, part.test.golds
        numbers["generated_unparsable"] = sum(parse(t, golds[i]) is None for i, t in part.replies.generated.items())
    return numbers


def _shared_names(scores: Sequence[Scores]) -> list[str]:
    shared = set.intersection(*(set(part.values) for part in scores))
    return [name for name in main_names(scores[0]) if name in shared]


def _control_key(control: str) -> str:
    return control.replace("-", "_")


def write_plots(part: Measured, folder: Path) -> None:
    """Write ``confusion-<test>.csv`` (one line per record), ``classes-<test>.csv`` and ``reliability-<test>.csv``."""
    name = part.test.name
    if part.scores.confusion is not None:
        write_csv(folder / f"confusion-{name}.csv", ("actual", "predicted"), _confusion_pairs(part.scores.confusion))
    each = [key for key in part.scores.values if key.startswith(("f1/", "official_f1/"))]
    if each:
        rows = ((key, part.scores.values[key], *part.scores.interval(key)) for key in each)
        write_csv(folder / f"classes-{name}.csv", ("class", "f1", "low", "high"), _stable_rows(rows))
    if part.reliability:
        keys = ("low", "high", "n", "confidence", "accuracy")
        cells = ([row[key] for key in keys] for row in part.reliability)
        write_csv(folder / f"reliability-{name}.csv", keys, _stable_rows(cells))


def _confusion_pairs(table: Confusion) -> Iterator[tuple[str, str]]:
    for actual, counts in zip(table.rows, table.matrix, strict=True):
        for predicted, count in zip(table.columns, counts, strict=True):
            yield from [(actual, predicted)] * int(count)


def _stable_rows(rows: Iterable[Iterable[Any]]) -> Iterable[list[Any]]:
    return ([stable(cell) if isinstance(cell, float) else cell for cell in row] for row in rows)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, keys in their order."""
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
