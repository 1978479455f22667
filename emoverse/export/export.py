"""Export a model to ONNX, and prove on real questions that it is the same model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoverse.artifacts.manifest import open_source, publish, require_of, write_json
from emoverse.config import ExportParams, plain
from emoverse.errors import UserError, did_you_mean
from emoverse.export.model_card import model_card
from emoverse.export.parity import (
    asked_rows,
    asked_sets,
    compare,
    frames_made,
    generation,
    made_up_rows,
    prompts,
    replies,
)
from emoverse.export.precision import check, folders, write_all
from emoverse.inference.engine import Engine
from emoverse.inference.onnx_engine import SETTINGS, onnx_engine
from emoverse.inference.test_sets import AmtRow, EvaluationSet
from emoverse.inference.torch_engine import TorchBackend, load_model, model_folder
from emoverse.media.frames import FrameStore
from emoverse.prompt.encode import Encoder
from emoverse.prompt.model_settings import Settings, settings_of_model


def export(
    model: Path,
    out: Path,
    params: ExportParams,
    *,
    amt: Path | None = None,
    validated: Sequence[Path] = (),
    scores: Path | None = None,
) -> None:
    """Write the model of a training step as three graphs at ``out``, with all that onnxruntime needs to answer.

    It is checked against torch on rows of ``amt``'s test sets, shown with the frames of ``validated``; without them on
    made-up rows. ``scores``, an output of evaluate, goes into the model card. Raises UserError when an input is unfit,
    a score is below ``params.floor`` or graphs of any precision differ from the model by more than their tolerance;
    nothing is published then.
    """
    check(params)
    sources = {"model": open_source(model)}
    if amt is not None:
        sources["amt"] = open_source(amt, made_by="build-amt")
        if not validated:
            raise UserError("test rows need frames", place="--validated", remedy="give the outputs of validate")
    for folder in validated:
        source = open_source(folder, made_by="validate")
        sources[f"validated/{source.manifest['name']}"] = source
    if scores is not None:
        sources["scores"] = open_source(scores, made_by="evaluate")
        require_of(sources["model"], sources["scores"])
    metrics = json.loads((scores / "metrics.json").read_text("utf-8")) if scores else None
    require(metrics, params.floor)
    seen = [source for name, source in sources.items() if name.startswith("validated/")]
    folder = model_folder(model)
    settings = settings_of_model(folder)
    media, limits = frames_made(seen), generation(sources.get("scores"))
    with publish(out, step="export", params=plain(params), inputs=sources) as draft:
        known = write_all(folder, draft.path, params)
        told = {"encoder": settings.as_json(), "decoder": known, "precision": list(params.precision)}
        write_json(draft.path / SETTINGS, {**told, "media": media, "generation": limits})
        shutil.copyfile(folder / "tokenizer.json", draft.path / "tokenizer.json")
        asked = _questions(settings, amt, validated, params.compared)
        found = _compared(draft.path, folder, asked, params, limits["max_new_tokens"])
        write_json(draft.path / "parity.json", found)
        answers = {str(row["channel"]): one.answers for one in asked.sets for row in one.rows if one.answers}
        write_json(draft.path / "prompts.json", prompts(asked.rows, answers))
        card = model_card(sources, settings, found, metrics)
        (draft.path / "MODEL_CARD.md").write_text(card, "utf-8")
        draft.count(rows_in=len(asked.rows), rows_out=len(asked.rows))


@dataclass(frozen=True)
class _Asked:
    """The rows whose logits are compared, the test sets that are answered, and the frames of both."""

    rows: list[AmtRow]
    sets: list[EvaluationSet]
    frames: Any


def _questions(settings: Settings, amt: Path | None, validated: Sequence[Path], most: int) -> _Asked:
    if amt is None:
        rows, frames = made_up_rows(settings)
        return _Asked(rows, [], frames)
    sets = asked_sets(amt, most)
    return _Asked(asked_rows(sets), sets, FrameStore(list(validated)))


def _compared(out: Path, model: Path, asked: _Asked, params: ExportParams, longest: int) -> dict[str, Any]:
    """Return the parity report by precision; raise UserError when one is outside its tolerance."""
    reference = Engine(TorchBackend(load_model(model)), Encoder(model, settings_of_model(model)), asked.frames)
    theirs = replies(reference, asked.sets, longest)
    found: dict[str, Any] = {}
    for precision, folder in folders(out, params.precision).items():
        candidate = onnx_engine(out, asked.frames, device="cpu", precision=precision)
        ours = replies(candidate, asked.sets, longest)
        parity = compare(reference, candidate, asked.rows, asked.sets, (theirs, ours))
        tolerance = params.tolerance[precision]
        parity.require(tolerance, precision)
        size = sum(path.stat().st_size for path in folder.glob("*.onnx*"))
        found[precision] = {**parity.as_json(tolerance), "bytes": size}
        print(f"{precision}: the same as torch within {parity.largest_absolute:.1e} on {parity.rows} rows", flush=True)
    return found


def require(metrics: Mapping[str, Any] | None, floor: Mapping[str, Mapping[str, float]]) -> None:
    """Raise UserError naming every score of ``metrics`` (evaluate's metrics.json) that is below its floor.

    ``floor`` maps a task to its metrics and the lowest value of each that passes; a score that is not there, or is not
    a number, does not.
    """
    place = "export.floor"
    if floor and metrics is None:
        raise UserError("there are no scores to hold against it", place=place, remedy="give --scores, or take it out")
    low = []
    for task, wanted in floor.items():
        known = {name: value for name, value in (metrics or {}).items() if name != "tests"}
        if task not in known:
            raise UserError(f"no scores of task {task!r}", place=place, remedy=did_you_mean(task, known))
        numbers = {key: v for key, v in known[task].items() if isinstance(v, int | float)}
        for metric, least in wanted.items():
            if metric not in numbers:
                raise UserError(f"{task} has no score {metric!r}", place=place, remedy=did_you_mean(metric, numbers))
            if not numbers[metric] >= least:  # so that NaN does not pass
                low.append(f"{task} {metric} is {numbers[metric]:.4f}, below {least:g}")
    if low:
        remedy = "train a better model, or lower export.floor in params.yaml"
        raise UserError("; ".join(low), place=place, remedy=remedy)
