"""Estimate what a training takes before it starts."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from emoverse.artifacts.manifest import read_manifest
from emoverse.config import TrainParams
from emoverse.errors import UserError
from emoverse.media.frames import FrameStore
from emoverse.models.model_folder import check_model_folder
from emoverse.prompt.encode import Encoder
from emoverse.prompt.model_settings import settings_of_model
from emoverse.training.estimate import Row, plan, read_shapes
from emoverse.training.rows import check_lengths, check_media, frames_of_a_video, read_rows

LIKELY: Final = 0.4
"""Share of a device's own matmul rate that training a large model reaches; a tiny one on a CPU stays below it."""
_SAMPLE: Final = 16  # rows read to time the frames
_UNITS: Final = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def preview(
    stage: str, model: Path, amt: Path, validated: Sequence[Path], params: TrainParams, rate: float | None = None
) -> dict[str, Any]:
    """Return `estimate.plan` of a stage with the time it would take, in seconds, and what this device offers.

    ``rate`` is the device's floating-point operations a second; without it a short matmul measures them here. Raises
    UserError for whatever would make the training itself refuse its input.
    """
    for folder, step in ((model, ""), (amt, "build-amt"), *((one, "validate") for one in validated)):
        read_manifest(folder, made_by=step)
    weights = model / "model"
    check_model_folder(weights)
    check_device(params)
    rows, frames = read_rows(amt / f"{stage}.jsonl"), FrameStore(validated)
    check_media(rows, frames)
    shown = frames_of_a_video(rows, frames)
    lengths = check_lengths(rows, weights, shown, params.max_length)
    encoder = Encoder(weights, settings_of_model(weights))
    answers = [len(encoder.answer_ids(row["messages"][-1]["content"])) for row in rows]
    costs = [
        Row(length, answer, shown if row["videos"] else 1)
        for row, length, answer in zip(rows, lengths, answers, strict=True)
    ]
    found = plan(read_shapes(weights), params, costs, checkpointing=params.gradient_checkpointing)
    measured, device, memory = _device(params.dtype)
    speed = rate or measured
    read = _seconds_a_row(rows, frames, encoder)
    return {
        "stage": stage,
        **found,
        "device": {"name": device, "memory": memory, "flops_a_second": speed, "measured": rate is None},
        "seconds": {
            "at_full_rate": found["flops"] / speed,
            "likely": found["flops"] / (LIKELY * speed),
            "reading_frames": read * len(rows) * params.epochs,
        },
    }


def _device(dtype: str) -> tuple[float, str, int]:
    """Return the rate of a square matmul, in operations a second, and the device's name and bytes of memory."""
    import torch

    cuda = torch.cuda.is_available()
    side = 8192 if cuda else 1024
    matrix = torch.ones(side, side, dtype=getattr(torch, dtype), device="cuda" if cuda else "cpu")
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        product = matrix @ matrix
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - began)
    if cuda:
        return 2 * side**3 / best, torch.cuda.get_device_name(), int(torch.cuda.mem_get_info()[1])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 2 * side**3 / best, f"CPU, {torch.get_num_threads()} threads", memory


def _seconds_a_row(rows: Sequence[Mapping[str, Any]], frames: FrameStore, encoder: Encoder) -> float:
    some = rows[:: max(1, len(rows) // _SAMPLE)][:_SAMPLE]
    began = time.perf_counter()
    for row in some:
        encoder.pixels(frames[(*row["videos"], *row["images"])[0]])
    return (time.perf_counter() - began) / len(some)


def table(found: Mapping[str, Any], budget: Mapping[str, Any]) -> str:
    """Write a preview for a person; ``budget`` is `emoverse.prompt.budget.token_budget`'s of the same stage."""
    parameters, memory, device, seconds = (found[key] for key in ("parameters", "memory", "device", "seconds"))
    parts = ", ".join(f"{name} {parameters[name]:,}" for name in ("vision", "projector", "language"))
    purposes = ", ".join(f"{name} {_bytes(value)}" for name, value in memory.items() if name != "total")
    source = "a matmul measured here" if device["measured"] else "as given"
    lines = [
        f"{found['stage']}: what it would take; nothing was trained",
        f"  model    {parameters['all']:,} parameters ({parts}); {parameters['trained']:,} are trained",
        f"  data     {found['rows']:,} rows, {found['frames']:,} frames, {found['tokens_an_epoch']:,} tokens an epoch",
        f"  steps    {found['steps']:,}, over {found['tokens']:,} tokens",
        f"  memory   {_bytes(memory['total'])} at the heaviest batch: {purposes}",
        f"           {_bytes(found['memory_with_checkpointing'])} with gradient checkpointing; "
        "CUDA and the libraries take about 1 GiB more",
        f"  device   {device['name']}, {_bytes(device['memory'])}, {_flops(device['flops_a_second'])}/s ({source})",
        f"  time     {_flops(found['flops'])}: {_time(seconds['at_full_rate'])} at that rate, "
        f"{_time(seconds['likely'])} at {100 * LIKELY:.0f} % of it",
        f"           frames: {_time(seconds['reading_frames'])} of one core",
        f"  {'task':8} {'rows':>8} {'median':>8} {'longest':>8} {'above ' + str(budget['max_length']):>12}  tokens",
    ]
    for name, one in budget["tasks"].items():
        lines.append(f"  {name:8} {one['rows']:8,} {one['median']:8.0f} {one['longest']:8,} {one['over']:12,}")
    return "\n".join(lines)


def _bytes(value: float) -> str:
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"


def _flops(value: float) -> str:
    size, unit = next(((s, u) for s, u in _UNITS if value >= s), (1.0, ""))
    return f"{value / size:.3g} {unit}FLOP"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def check_device(params: TrainParams) -> None:
    """Raise UserError when there are fewer GPUs than ``gpus`` says, or a package that the parameters need is missing.

    Where there is no GPU at all, several processes may share the CPU.
    """
    if params.sharding != "none" and find_spec("deepspeed") is None:
        problem = f"sharding is {params.sharding}, which needs the package deepspeed"
        raise UserError(
            problem,
            place="params.yaml",
            remedy="install it (`pip install 'emoverse[deepspeed]'`), or set train.sharding to none",
        )
    import torch  # takes seconds: first what refuses an input without it

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus and gpus < params.gpus:
        problem = f"gpus is {params.gpus}, this machine has {gpus}"
        raise UserError(problem, place="params.yaml", remedy="set train.gpus to what there is")
    if params.attention == "flash_attention_2":
        lacks = {
            "a GPU": not gpus,
            "the package flash-attn": find_spec("flash_attn") is None,
            "dtype bfloat16 or float16": params.dtype == "float32",
        }
        if lacking := [name for name, is_so in lacks.items() if is_so]:
            problem = f"attention is flash_attention_2, which needs {' and '.join(lacking)}"
            raise UserError(
                problem, place="params.yaml", remedy="set train.attention to auto: it is taken where it runs"
            )
