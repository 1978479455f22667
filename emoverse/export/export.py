"""Export a model to ONNX and check on test questions that the graphs give the same answers as torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from emoverse.artifacts.manifest import open_source, open_validated, publish, require_same_model, write_json
from emoverse.config import ExportParams, plain
from emoverse.errors import UserError, did_you_mean
from emoverse.export.memory import require_memory
from emoverse.export.model_card import model_card
from emoverse.export.parity import (
    compare,
    generation_settings,
    media_settings,
    prompt_templates,
    replies,
    sample_rows,
    sampled_sets,
    synthetic_rows,
)
from emoverse.export.precision import check, folders, write_all
from emoverse.inference.engine import Engine, model_folder
from emoverse.inference.onnx_engine import SETTINGS, onnx_engine
from emoverse.inference.test_sets import AmtRow, EvaluationSet
from emoverse.inference.torch_engine import TorchBackend, load_model
from emoverse.media.frames import FrameStore
from emoverse.prompt.encode import Encoder
from emoverse.prompt.model_settings import Settings, settings_of_model

FRAMES: Final = 8  # of a synthetic row at most


def export(
    model: Path,
    out: Path,
    params: ExportParams,
    *,
    amt: Path | None = None,
    validated: Sequence[Path] = (),
    scores: Path | None = None,
) -> None:
    """Write the model of a training step as three ONNX graphs, with all that onnxruntime needs to answer.

    Args:
        model: Output of train or base-model.
        out: Folder to publish.
        params: Section ``export``.
        amt: Output of build-amt whose test sets the graphs are compared on; None compares on synthetic rows.
        validated: Outputs of validate with the frames of the test sets.
        scores: Output of evaluate, for the model card and ``params.floor``.

    Raises:
        UserError: An input is unfit, a score is below ``params.floor``, or the graphs of a precision differ from the
            model by more than their tolerance. Nothing is published then.
    """
    check(params)
    sources = {"model": open_source(model)}
    if amt is not None:
        sources["amt"] = open_source(amt, made_by="build-amt")
        if not validated:
            raise UserError("test rows need frames", place="--validated", remedy="give the outputs of validate")
    sources |= open_validated(validated)
    metrics = None
    if scores is not None:
        sources["scores"] = open_source(scores, made_by="evaluate")
        require_same_model(sources["model"], sources["scores"])
        metrics = json.loads((scores / "metrics.json").read_text("utf-8"))
    require_floor(scores_for_floor(model, metrics), params.floor)
    media = media_settings([source for name, source in sources.items() if name.startswith("validated/")])
    generation = generation_settings(sources.get("scores"))
    folder = model_folder(model)
    settings = settings_of_model(folder)
    questions = _questions(settings, amt, validated, params.compared)
    limit = generation["max_new_tokens"]
    require_memory(folder, params, _longest_prompt(folder, settings, questions, media) + limit)
    with publish(out, step="export", params=plain(params), inputs=sources) as draft:
        decoder = write_all(folder, draft.path, params)
        entries = {"encoder": settings.as_json(), "decoder": decoder, "precision": list(params.precision)}
        write_json(draft.path / SETTINGS, {**entries, "media": media, "generation": generation})
        shutil.copyfile(folder / "tokenizer.json", draft.path / "tokenizer.json")
        parity = _check_parity(draft.path, folder, questions, params, limit)
        write_json(draft.path / "parity.json", parity)
        answers = {str(row["channel"]): item.answers for item in questions.sets for row in item.rows if item.answers}
        write_json(draft.path / "prompts.json", prompt_templates(questions.rows, answers))
        card = model_card(sources, settings, parity, metrics)
        (draft.path / "MODEL_CARD.md").write_text(card, "utf-8")
        draft.count(rows_in=len(questions.rows), rows_out=len(questions.rows))


@dataclass(frozen=True)
class _Questions:
    """The rows whose logits are compared, the test sets that are answered, and the frames of both."""

    rows: list[AmtRow]
    sets: list[EvaluationSet]
    frames: Any


def _questions(settings: Settings, amt: Path | None, validated: Sequence[Path], limit: int) -> _Questions:
    if amt is None:
        rows, frames = synthetic_rows(settings)
        return _Questions(rows, [], frames)
    sets = sampled_sets(amt, limit)
    return _Questions(sample_rows(sets), sets, FrameStore(list(validated)))


def _longest_prompt(model: Path, settings: Settings, questions: _Questions, media: Mapping[str, Any] | None) -> int:
    """Return the tokens of the longest prompt."""
    rows = [*questions.rows, *(row for item in questions.sets for row in item.rows)]
    frames = [int(media["frames"]) if media and row.get("videos") else FRAMES for row in rows]
    return max(len(ids) for ids in Encoder(model, settings).prompt_ids(rows, frames))


def _check_parity(
    out: Path, model: Path, questions: _Questions, params: ExportParams, max_new_tokens: int
) -> dict[str, Any]:
    """Return the parity report by precision; raise UserError when a precision is outside its tolerance."""
    torch.set_num_threads(params.threads)
    encoder, batch = Encoder(model, settings_of_model(model)), params.batch_size
    reference = Engine(TorchBackend(load_model(model)), encoder, questions.frames, batch_size=batch)
    expected = replies(reference, questions.sets, max_new_tokens)
    report: dict[str, Any] = {}
    for precision, folder in folders(out, params.precision).items():
        candidate = onnx_engine(
            out, questions.frames, batch_size=batch, device="cpu", precision=precision, threads=params.threads
        )
        actual = replies(candidate, questions.sets, max_new_tokens)
        parity = compare(reference, candidate, questions.rows, questions.sets, (expected, actual))
        tolerance = params.tolerance[precision]
        parity.require(tolerance, precision)
        size = sum(path.stat().st_size for path in folder.glob("*.onnx*"))
        report[precision] = {**parity.as_json(tolerance), "bytes": size}
        print(f"{precision}: equal to torch within {parity.largest_absolute:.1e} on {parity.rows} rows", flush=True)
    return report


def scores_for_floor(model: Path, metrics: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the scores by task that ``export.floor`` applies to.

    These are the validation scores of the model's stage where it has some, so that the test set chooses nothing; else
    evaluate's ``metrics``.
    """
    path = model / "validation.json"
    if path.is_file():
        return dict(json.loads(path.read_text("utf-8"))["tasks"])
    return metrics


def require_floor(metrics: Mapping[str, Any] | None, floor: Mapping[str, Mapping[str, float]]) -> None:
    """Raise UserError naming every score that is below its floor, missing or not a number.

    Args:
        metrics: Scores by task, as in evaluate's metrics.json.
        floor: The lowest value that passes, by task and score.
    """
    place = "export.floor"
    if floor and metrics is None:
        raise UserError("there are no scores to compare with it", place=place, remedy="give --scores, or remove it")
    low = []
    for task, minimums in floor.items():
        scored_tasks = {name: value for name, value in (metrics or {}).items() if name != "tests"}
        if task not in scored_tasks:
            raise UserError(f"no scores of task {task!r}", place=place, remedy=did_you_mean(task, scored_tasks))
        numbers = {key: value for key, value in scored_tasks[task].items() if isinstance(value, int | float)}
        for metric, minimum in minimums.items():
            if metric not in numbers:
                raise UserError(f"{task} has no score {metric!r}", place=place, remedy=did_you_mean(metric, numbers))
            if not numbers[metric] >= minimum:  # so that NaN fails
                low.append(f"{task} {metric} is {numbers[metric]:.4f}, below {minimum:g}")
    if low:
        remedy = "train a better model, or lower export.floor in params.yaml"
        raise UserError("; ".join(low), place=place, remedy=remedy)
