"""Fine-tune one stage with ms-swift and publish the merged model, its adapter, its log and its ledger."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.digests import code_digest
from emoverse.artifacts.manifest import exclusive, open_source, open_validated, publish, write_json
from emoverse.config import TrainParams, plain
from emoverse.errors import UserError
from emoverse.inference.test_sets import EvaluationSet
from emoverse.media.frames import FrameStore
from emoverse.training.adapters import adapter_base, write_model
from emoverse.training.checkpoints import fingerprint_of, libraries_of, scratch_folder, set_aside_if_inconsistent
from emoverse.training.distributed import this_node
from emoverse.training.launch import train_on_ranks
from emoverse.training.preview import check_device
from emoverse.training.rows import (
    check_lengths,
    check_media,
    frames_of_a_video,
    read_rows,
    repeated_rows,
    validation_sets,
)
from emoverse.training.trainer import TrainingResult, train_rows

_SHOWN: Final = 5


def train(
    stage: str,
    model: Path,
    amt: Path,
    validated: Sequence[Path],
    out: Path,
    params: TrainParams,
    tensorboard: Path | None = None,
    base: Path | None = None,
) -> None:
    """Train one stage and publish its model.

    Every row is checked before training starts. Unfinished training stays in a scratch folder; the next run resumes
    it. With several nodes each of them calls this, with a scratch folder that they share; the first one publishes.

    Args:
        stage: ``stage1`` or ``stage2``.
        model: Output of base-model or of a stage.
        amt: Output of build-amt.
        validated: Outputs of validate with the frames.
        out: Folder to publish.
        params: The stage's parameters.
        tensorboard: Folder for event files, one subfolder per stage, or None.
        base: The base model; with ``params.start`` adapter, the adapter of ``model`` is trained further on it.

    Raises:
        UserError: Bad rows, a model folder with code or pickles, an adapter that does not fit, a loss that is not
            finite.
        PreemptedError: SIGTERM; a checkpoint is saved.
    """
    node = this_node(params)
    inputs = {"model": open_source(model), "amt": open_source(amt, made_by="build-amt")}
    from emoverse.models.convert.native import check_model_folder  # it imports torch: not before the inputs are there

    adapter = None
    if params.start == "adapter":
        inputs["base"], adapter = adapter_base(inputs["model"], base, params), model / "adapter"
    inputs |= open_validated(validated)
    weights = (inputs["base"].path if adapter else model) / "model"
    check_model_folder(weights)
    check_device(params)
    rows = read_rows(amt / f"{stage}.jsonl")
    frames = FrameStore(validated)
    check_media(rows, frames)
    lengths = check_lengths(rows, weights, frames_of_a_video(rows, frames), params.max_length)
    sets = validation_sets(amt, rows, frames) if params.validation_rows else []
    settings = {**plain(params), "stage": stage}
    digests = {name: source.digest for name, source in inputs.items()}
    scratch = scratch_folder(fingerprint_of(settings, digests, code_digest("train"), libraries_of(params)))
    scratch.parent.mkdir(parents=True, exist_ok=True)
    libraries = libraries_of(params)
    settings_of_run = (params, scratch, stage, tensorboard and tensorboard / stage, adapter, amt)
    if node.rank > 0:
        train_on_ranks(rows, lengths, weights, validated, *settings_of_run, node)
        return
    with (
        publish(out, step="train", name=stage, params=settings, inputs=inputs, libraries=libraries) as draft,
        exclusive(scratch, f"train --stage {stage} --out {out}"),
    ):
        if message := set_aside_if_inconsistent(scratch, params.processes):
            print(f"train: {message}", flush=True)
        if params.processes > 1:
            result = train_on_ranks(rows, lengths, weights, validated, *settings_of_run, node)
        else:
            result = train_rows(rows, lengths, weights, frames, *settings_of_run)
        assert result is not None  # this is the first process
        write_model(weights, result.checkpoint, params, draft.path / "model", draft.path / "adapter")
        with (draft.path / "log.jsonl").open("w", encoding="utf-8") as log:
            log.writelines(json.dumps(entry, sort_keys=True, allow_nan=False) + "\n" for entry in result.log)
        dropped = _account(rows, result, params, draft.path / "rows.json")
        _write_validation(result, sets, frames, params, draft.path)
        reason = "epochs-below-one" if result.selected_step == result.steps else "after-selected-checkpoint"
        draft.count(rows_in=len(rows), rows_out=len(rows) - len(dropped), dropped={reason: len(dropped)})
        draft.seeds = {"train": params.seed}
        draft.run = {"training": result.speed}
        draft.facts = {"steps": result.steps, "longest_row": max(lengths), "final_loss": result.log[-1]["loss"]}
        draft.facts["selected_step"] = result.selected_step
    shutil.rmtree(scratch, ignore_errors=True)


def _write_validation(
    result: TrainingResult, sets: Sequence[EvaluationSet], frames: FrameStore, params: TrainParams, out: Path
) -> None:
    """Score the published model on whole validation sets; write ``validation.json`` with the scores by checkpoint."""
    if not sets:
        return
    from emoverse.training.validation import score_model

    final = score_model(out / "model", sets, frames, params.batch_size)
    steps = [{key: entry[key] for key in ("step", "loss", "score", "tasks")} for entry in result.validation]
    write_json(out / "validation.json", _rounded({**final, "select": params.select, "steps": steps}))


def _rounded(value: Any) -> Any:
    """Round numbers to six decimals, at any depth."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def _account(rows: Sequence[dict[str, Any]], result: TrainingResult, params: TrainParams, path: Path) -> list[str]:
    """Write how often each row was trained up to the selected checkpoint; return those that never were.

    Raises:
        UserError: Rows were trained more or less often than once an epoch, as when the trainer replaces a row.
    """
    ids, seen = [row["channel"] for row in rows], result.seen
    if unknown := sorted(set(seen) - set(ids)):
        raise ValueError(f"the trainer saw rows that are not in the stage: {unknown[:_SHOWN]}")
    least, most = math.floor(params.epochs), math.ceil(params.epochs)
    wrong = {name: seen.get(name, 0) for name in ids if not least <= seen.get(name, 0) <= most}
    repeats = most * repeated_rows(len(ids), params.batch_size, params.processes)
    if any(count < least for count in wrong.values()) or sum(count - most for count in wrong.values()) > repeats:
        shown = ", ".join(f"{name} {count} times" for name, count in list(wrong.items())[:_SHOWN])
        problem = f"{len(wrong)} of {len(ids)} rows were not trained once an epoch: {shown}"
        raise UserError(problem, remedy="report this as a bug of emoverse")
    trained = result.selected
    dropped = [name for name in ids if not trained.get(name)]
    write_json(path, {"in": len(ids), "trained": {name: trained[name] for name in sorted(trained)}, "dropped": dropped})
    return dropped
