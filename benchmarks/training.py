"""Measure how fast stages are trained: our driver against plain ``swift sft`` as the authors run it.

    python -m benchmarks.training [--data data] [--stage stage1] [--rows N]

Needs ``data/base``, ``data/amt`` and ``data/validated`` as ``make run`` leaves them. Both sides train the same rows of
the same tiny model for two epochs with LoRA, an effective batch of 8 and 32-bit floats. The authors' way: batches of
one row, eight accumulated, gradient checkpointing, mp4 files decoded in every epoch by ms-swift's own loader (stills,
which the authors cut out beforehand, from files). Ours: eight rows at a time of like length, frames from the shards.

Real tokens are counted, padding is not; the count is the same for both. Time is that of the training loop; start-up
(imports, model, checks) stands beside it. CPU seconds are of all processes of a side: the machine may be busy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from emoverse.artifacts.manifest import open_source, publish
from emoverse.config import load_params
from emoverse.media.frames import FrameStore

EPOCHS = 2
AUTHORS = {
    "tuner_type": "lora", "lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear",
    "freeze_vit": "true", "freeze_aligner": "false", "learning_rate": 1e-4, "num_train_epochs": EPOCHS,
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "gradient_checkpointing": "true",
    "logging_steps": 10, "save_steps": 500, "save_total_limit": 3, "acc_strategy": "seq", "eval_strategy": "no",
}  # fmt: skip
OURS = {
    "tuner": "lora", "lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.05, "learning_rate": 1e-4,
    "epochs": float(EPOCHS), "batch_size": 8, "accumulation": 1, "save_every": 500,
}  # fmt: skip
# `swift sft`, with a clock around the loop; CPU time includes the loader's processes.
PLAIN = """
import json, sys, time
import psutil
from swift import sft_main
from swift.callbacks import TrainerCallback, callbacks_map
def cpu():
    own = psutil.Process()
    times = [own.cpu_times(), *(child.cpu_times() for child in own.children(recursive=True))]
    return sum(sum(one[:4]) for one in times)
class Clock(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        self.wall, self.cpu = time.perf_counter(), cpu()
    def on_train_end(self, args, state, control, **kwargs):
        found = {"seconds": time.perf_counter() - self.wall, "cpu_seconds": cpu() - self.cpu}
        found["steps"] = state.global_step
        open(sys.argv[1], "w").write(json.dumps(found))
callbacks_map["clock"] = Clock
sft_main([*sys.argv[2:], "--callbacks", "clock"])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--stage", choices=("stage1", "stage2"), default="stage1")
    parser.add_argument("--rows", type=int, default=160, help="rows of the stage, spread evenly over it (0: all)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="training-benchmark-") as name:
        data = args.data.absolute()
        prepared = Folders(data.parent, data, args.stage, args.rows, Path(name))
        ours = train_ours(prepared, {})
        show(ours, train_plainly(prepared, ours["tokens"], {"torch_dtype": "float32", "use_cpu": "true"}), wanted=1.5)


class Folders:
    """The folders both sides read: the model, some rows of the stage, the frames and the videos.

    ``root`` is what the corpora of params.yaml are relative to, ``data`` holds ``base``, ``amt`` and ``validated``;
    both sides write below ``work``.
    """

    def __init__(
        self, root: Path, data: Path, stage: str, rows: int, work: Path, overrides: dict[str, Any] | None = None
    ) -> None:
        self.params, self.root, self.work = load_params(overrides=overrides), root, work
        self.stage, self.model, self.amt = stage, data / "base", work / "amt"
        self.validated = {name: data / "validated" / name for name in self.params.corpora}
        source = open_source(data / "amt", made_by="build-amt")
        lines = (data / "amt" / f"{stage}.jsonl").read_text("utf-8").splitlines()
        chosen = lines[:: max(1, len(lines) // rows)][:rows] if rows else lines
        with publish(self.amt, step="build-amt", params={"rows": rows}, inputs={"amt": source}) as draft:
            (draft.path / f"{stage}.jsonl").write_text("\n".join(chosen) + "\n", "utf-8")
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in chosen]

    def train_command(self, settings: Mapping[str, object]) -> list[str]:
        """Return the command line of ``emoverse train`` on these inputs, without ``--out``."""
        words = ["train", "--stage", self.stage, "--model", self.model, "--amt", self.amt]
        words += ["--validated", *self.validated.values()]
        for key, value in settings.items():
            words += ["--set", f"{self.stage}.{key}={value}"]
        return [sys.executable, "-m", "emoverse.cli", *map(str, words)]

    def clips(self) -> dict[str, Path]:
        """Map each utterance to its mp4 file."""
        found = {}
        for name, folder in self.validated.items():
            table = pq.read_table(folder / "utterances.parquet", columns=["utterance_id", "clip"]).to_pylist()
            root = self.root / self.params.corpora[name].root
            found.update({row["utterance_id"]: root / row["clip"] for row in table if row["clip"]})
        return found


def train_ours(prepared: Folders, settings: Mapping[str, object]) -> dict[str, Any]:
    """Train by ``emoverse train``; return what it says of its speed."""
    whole = run([*prepared.train_command({**OURS, **settings}), "--out", prepared.work / "ours"], prepared.work)
    return {**json.loads((prepared.work / "ours.run.json").read_text("utf-8"))["training"], "whole": whole}


def train_plainly(prepared: Folders, tokens: float, settings: Mapping[str, object]) -> dict[str, Any]:
    """Train by ms-swift alone; ``tokens`` is what the same rows hold."""
    model, dataset = sampling_copy(prepared, prepared.work / "model"), write_dataset(prepared)
    flags = {
        **AUTHORS, "model": model, "dataset": dataset, "output_dir": prepared.work / "plain", "model_type": "internvl",
        "template": "internvl_hf", "max_length": 1 << 15, "use_hf": "true", "check_model": "false",
        "add_version": "false", "report_to": "none", "split_dataset_ratio": 0, "strict": "true",
        "load_from_cache_file": "false", **settings,
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    whole = run([sys.executable, "-c", PLAIN, prepared.work / "clock.json", *words], prepared.work)
    found = json.loads((prepared.work / "clock.json").read_text("utf-8"))
    return {**found, "tokens": tokens, "rows": EPOCHS * len(prepared.rows), "whole": whole}


def sampling_copy(prepared: Folders, folder: Path) -> Path:
    """Copy the model with a processor that takes as many frames of a video as our shards hold."""
    folder.mkdir()
    for path in (prepared.model / "model").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text("utf-8"))
    settings["video_processor"] |= {"do_sample_frames": True, "num_frames": prepared.params.media.frames}
    path.write_text(json.dumps(settings), "utf-8")
    return folder


def write_dataset(prepared: Folders) -> Path:
    """Write the rows with paths of videos, and the stills as files."""
    clips, frames = prepared.clips(), FrameStore(list(prepared.validated.values()))
    work = prepared.work
    path = work / "rows.jsonl"
    with path.open("w", encoding="utf-8") as handle:
        for number, row in enumerate(prepared.rows):
            images = [work / f"still-{number}-{k}.png" for k in range(len(row["images"]))]
            for still, reference in zip(images, row["images"], strict=True):
                Image.fromarray(frames[reference][0]).save(still)
            videos = [str(clips[reference.removeprefix("clip:").partition("#")[0]]) for reference in row["videos"]]
            line = {"messages": row["messages"], "videos": videos, "images": [str(one) for one in images]}
            handle.write(json.dumps(line, ensure_ascii=False) + "\n")
    return path


def run(command: Sequence[object], work: Path) -> float:
    """Run a side in a process of its own, its caches below ``work``; return its wall seconds."""
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
    caches = {
        "EMOVERSE_SCRATCH": str(work / "scratch"),
        "HF_HOME": str(work / "hf"),
        "MODELSCOPE_CACHE": str(work / "ms"),
    }
    began = time.perf_counter()
    done = subprocess.run(
        list(map(str, command)), env={**os.environ, **offline, **caches}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{command[:4]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - began


def show(ours: dict[str, Any], plain: dict[str, Any], wanted: float) -> None:
    """Print both sides and the ratios of real tokens per second."""
    heads = ("rows", "tokens", "steps", "loop s", "CPU s", "start-up s", "tokens/s", "per CPU s")
    print(f"{'':20}" + "".join(f"{head:>11}" for head in heads))
    for name, one in (("swift sft, authors'", plain), ("emoverse train", ours)):
        numbers = (one["rows"], one["tokens"], one["steps"], one["seconds"], one["cpu_seconds"])
        speeds = (one["whole"] - one["seconds"], one["tokens"] / one["seconds"], one["tokens"] / one["cpu_seconds"])
        print(f"{name:20}" + "".join(f"{number:11,.0f}" for number in (*numbers, *speeds)))
    wall, cpu = plain["seconds"] / ours["seconds"], plain["cpu_seconds"] / ours["cpu_seconds"]
    print(
        f"ratio of real tokens per second: {wall:.2f} by the clock, {cpu:.2f} by CPU time (wanted: at least {wanted:g})"
    )


if __name__ == "__main__":
    main()
