"""The step ``train``: fine-tune one stage with ms-swift; publish the merged model, its adapter, log and ledger."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.digests import code_digest
from emoverse.artifacts.manifest import Source, exclusive, open_source, open_validated, publish, write_json
from emoverse.config import TrainParams, plain
from emoverse.errors import UserError
from emoverse.inference.test_sets import EvaluationSet
from emoverse.media.frames import FrameStore
from emoverse.training.checkpoints import fingerprint_of, libraries_of, scratch_folder, set_aside_if_inconsistent
from emoverse.training.distributed import this_node
from emoverse.training.estimate import check_device
from emoverse.training.launch import train_on_ranks
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
_ADAPTER_KEYS: Final = {"r": "lora_rank", "lora_alpha": "lora_alpha"}
# Files that training does not change, copied from the model that was trained.
_UNCHANGED: Final = (
    "tokenizer*", "chat_template*", "*processor_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "generation_config.json",
)  # fmt: skip


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
    from emoverse.models.architecture import (
        check_model_folder,  # it imports torch: not before the inputs are there
    )

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
    from emoverse.training.callbacks import score_model

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


def adapter_base(stage: Source, base: Path | None, params: TrainParams) -> Source:
    """Open the base model that the adapter of ``stage`` belongs to.

    Raises:
        UserError: There is no base or a different one, or the adapter differs from the parameters.
    """
    place = str(stage.path)
    made_by = f"{stage.manifest['step']} {stage.manifest['name']}"
    if stage.manifest["step"] != "train":
        remedy = "set start: merged for a stage that starts from a base model"
        raise UserError(f"start: adapter, but {made_by!r} has no adapter", place=place, remedy=remedy)
    if base is None:
        raise UserError("start: adapter needs the base model too", place=place, remedy="give it with --base")
    source = open_source(base)
    if source.digest != stage.manifest["inputs"].get("base", stage.manifest["inputs"]["model"]):
        raise UserError(f"the adapter was not trained on {base}", place=place, remedy="give its base model")
    path = stage.path / "adapter" / "adapter_config.json"
    if not path.is_file():
        remedy = "set start: merged, as the stage before trained every weight"
        raise UserError("start: adapter, but the stage has no adapter", place=place, remedy=remedy)
    config = json.loads(path.read_text("utf-8"))
    expected = {key: getattr(params, name) for key, name in _ADAPTER_KEYS.items()}
    differing = [
        f"{_ADAPTER_KEYS[key]} {config.get(key)}" for key, value in expected.items() if config.get(key) != value
    ]
    full = bool(config.get("modules_to_save"))
    if full != (params.projector == "full"):
        differing.append(f"projector {'full' if full else 'not full'}")
    if differing:
        remedy = "set the same in params.yaml for both stages, or start: merged"
        raise UserError(f"the adapter has {', '.join(differing)}", place=str(path), remedy=remedy)
    return source


def write_model(base: Path, checkpoint: Path, params: TrainParams, model: Path, adapter: Path) -> None:
    """Write the model and, for LoRA, its adapter; the tokenizer and its like come from ``base`` unchanged.

    Args:
        base: The model that was trained.
        checkpoint: The checkpoint to publish.
        params: The stage's parameters.
        model: Folder to write the whole model to: the base with the checkpoint merged in.
        adapter: Folder to write the adapter to.
    """
    import torch
    from transformers import InternVLForConditionalGeneration

    torch.set_num_threads(params.threads)
    adapter.mkdir()
    source = base if params.tuner == "lora" else checkpoint
    dtype = getattr(torch, params.dtype)
    network = InternVLForConditionalGeneration.from_pretrained(source, dtype=dtype, local_files_only=True)
    if params.tuner == "lora":
        from peft import PeftModel

        _copy_adapter(checkpoint, adapter)
        network = PeftModel.from_pretrained(network, adapter).merge_and_unload()
    network.save_pretrained(model)
    for pattern in _UNCHANGED:
        for path in sorted(base.glob(pattern)):
            shutil.copyfile(path, model / path.name)
    for path in model.iterdir():
        path.chmod(0o644)  # safetensors writes 0600


def _copy_adapter(checkpoint: Path, adapter: Path) -> None:
    shutil.copyfile(checkpoint / "adapter_model.safetensors", adapter / "adapter_model.safetensors")
    config = json.loads((checkpoint / "adapter_config.json").read_text("utf-8"))
    config["base_model_name_or_path"] = None  # a path of this machine; the manifest names the base by its digest
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])  # peft keeps a set, whose order differs from run to run
    if isinstance(config.get("target_modules"), str):  # a pattern ms-swift wrote from a set
        config["target_modules"] = re.sub(r"\(([\w|]+)\)", _sorted_group, config["target_modules"])
    text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n"
    (adapter / "adapter_config.json").write_text(text, "utf-8")


def _sorted_group(group: re.Match[str]) -> str:
    return "(" + "|".join(sorted(group[1].split("|"))) + ")"
