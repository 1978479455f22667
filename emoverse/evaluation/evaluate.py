"""Score a model on every test set of AMT, beside baselines and controls, with intervals."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.manifest import open_source, open_validated, publish, write_json
from emoverse.config import EvaluateParams, plain
from emoverse.errors import UserError
from emoverse.evaluation.metrics import Measured, measure, metrics, write_jsonl, write_plots
from emoverse.evaluation.replies import collect, prediction_rows, trivial_scores
from emoverse.evaluation.score_file import published_beside
from emoverse.evaluation.scoring import warnings_of
from emoverse.inference.engine import EngineName, open_engine
from emoverse.inference.test_sets import check_frames, read_sets
from emoverse.media.frames import FrameStore

LIBRARIES: Final[dict[EngineName, tuple[str, ...]]] = {
    "torch": ("torch", "transformers"),
    "onnx": ("onnxruntime-gpu",),
}


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
        _write(draft.path, measured)
        if (model / "validation.json").is_file():  # beside the test scores, for whoever chooses between models
            shutil.copyfile(model / "validation.json", draft.path / "validation.json")
        rows = sum(len(test.rows) for test in sets)
        draft.count(rows_in=rows, rows_out=rows)
        draft.seeds = {"evaluate": params.seed}


def _write(folder: Path, measured: Sequence[Measured]) -> None:
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
