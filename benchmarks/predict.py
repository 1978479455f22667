"""Measure an exported model beside the model it was made from: latency, memory, start to answer.

Needs ``data/onnx`` and the model it was exported from, as ``make run`` leaves them. Both answer the same four tasks
about the same frames through the same code; only the engine differs. Each measurement is a process of its own, the two
take turns, and the median counts. Wall and CPU time: where a machine is shared only the latter means much.
The process that decodes is the same for both, and its CPU time is in neither.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CLIP = Path("data/raw/sample/MELD/train/train_splits/dia0_utt0.mp4")
TEXT = "We won, can you believe it?"
CLIPS = 12  # asked about in one process, the first two not counted
TURNS = 3
TOKENS = 64
Found = dict[str, list[dict[str, float]]]  # measurements by engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--onnx", type=Path, default=Path("data/onnx"))
    parser.add_argument("--model", type=Path, default=Path("data/stage2"))
    parser.add_argument("--clip", type=Path, default=CLIP)
    parser.add_argument("--precision", help="of the export (default: its first)")
    parser.add_argument("--child", choices=("many", "once", "tokens"), help=argparse.SUPPRESS)
    parser.add_argument("--engine", choices=("onnx", "torch"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps({"many": many, "once": once, "tokens": tokens}[args.child](args)))
        return
    table("one clip, four tasks", "ms", turns(args, "many"), ("wall_ms", "cpu_ms"), wanted=1.3)
    memory(args)
    table("process start to answer, four tasks", "s", started(args), ("wall_s", "cpu_s"), wanted=3.0)
    if gpus():
        found = turns(args, "tokens")
        table(f"GPU, {TOKENS} tokens of 8 replies", "ms", found, ("wall_ms",), wanted=1.5)
    else:
        print("\nno GPU here: tokens a second on one were not measured")


def table(title: str, unit: str, found: Found, columns: tuple[str, ...], wanted: float) -> None:
    """Print medians of both engines and torch's share over onnxruntime's."""
    print(f"\n{title} ({unit}; wanted: at least {wanted:g}x)")
    for column in columns:
        onnx, torch = (statistics.median(one[column] for one in found[name]) for name in ("onnx", "torch"))
        print(f"  {column.split('_')[0]:5} onnxruntime {onnx:9.2f}   torch {torch:9.2f}   {torch / onnx:.2f}x")


def memory(args: argparse.Namespace) -> None:
    found = turns(args, "many", count=1)
    onnx, torch = found["onnx"][0]["resident_mb"], found["torch"][0]["resident_mb"]
    print(f"\nresident memory after {CLIPS} clips (wanted: at most 0.6x)")
    print(f"  onnxruntime {onnx:.0f} MB   torch {torch:.0f} MB   {onnx / torch:.2f}x")


def turns(args: argparse.Namespace, what: str, count: int = TURNS) -> Found:
    """Run one measurement with both engines in turn."""
    found: Found = {"onnx": [], "torch": []}
    for _ in range(count):
        for engine, results in found.items():
            results.append(json.loads(child(args, what, engine).splitlines()[-1]))
    return found


def child(args: argparse.Namespace, what: str, engine: str) -> str:
    own = ["--precision", args.precision] if args.precision else []
    places = ["--onnx", args.onnx, "--model", args.model, "--clip", args.clip]
    return run("-m", "benchmarks.predict", "--child", what, "--engine", engine, *places, *own)


def run(*words: object) -> str:
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def started(args: argparse.Namespace) -> Found:
    """Time whole processes: the verb itself, and the same through torch."""
    found: Found = {"onnx": [], "torch": []}
    for _ in range(TURNS):
        for engine, results in found.items():
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            if engine == "onnx":
                own = ["--precision", args.precision] if args.precision else []
                run("-m", "emoverse.cli", "predict", args.clip, "--model", args.onnx, "--text", TEXT, *own)
            else:
                child(args, "once", engine)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            results.append({"wall_s": time.perf_counter() - began, "cpu_s": cpu})
    return found


def predictor(args: argparse.Namespace) -> Any:
    """Open one engine behind the very predictor the verb uses."""
    from emoverse.serving.clips import Limits, start_forkserver
    from emoverse.serving.predictor import BATCH_SIZE, ClipStore, Predictor, load_predictor, read_export

    if args.engine == "onnx":
        return load_predictor(args.onnx, precision=args.precision)
    from emoverse.inference.engine import open_engine

    start_forkserver()
    clips = ClipStore()
    engine = open_engine("torch", args.model, clips, batch_size=BATCH_SIZE)
    return Predictor(read_export(args.onnx), engine, clips, Limits())


def once(args: argparse.Namespace) -> dict[str, float]:
    predictor(args).predict_clip(args.clip, TEXT)
    return {}


def many(args: argparse.Namespace) -> dict[str, float]:
    """Ask about one clip after another; no two are alike, so nothing is remembered."""
    from dataclasses import replace

    from emoverse.serving.clips import read_clip

    loaded = predictor(args)
    seen, noise = read_clip(args.clip, loaded.exported.media), np.random.default_rng(0)
    questions = [(one, one.question(TEXT)) for one in loaded.exported.prompts.values() if one.template]
    walls, cpus = [], []
    for _ in range(CLIPS):
        frames = seen.frames ^ noise.integers(0, 4, seen.frames.shape, dtype=np.uint8)
        still = seen.still ^ noise.integers(0, 4, seen.still.shape, dtype=np.uint8)
        one = replace(seen, frames=frames, still=still)
        wall, cpu = time.perf_counter(), time.process_time()
        loaded.answer(one, questions)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    resident = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    middle = [1000 * statistics.median(times[2:]) for times in (walls, cpus)]
    return {"wall_ms": middle[0], "cpu_ms": middle[1], "resident_mb": resident}


def tokens(args: argparse.Namespace) -> dict[str, float]:
    """Generate replies on a GPU that nothing ends early."""
    loaded = predictor(args)
    settings = loaded.engine.encoder.settings
    object.__setattr__(settings, "stop", ())
    frames = np.random.default_rng(0).integers(0, 256, (8, *settings.size, 3), dtype=np.uint8)
    loaded.clips["clip:a"] = frames
    row = {"messages": [{"role": "user", "content": "<video>Tell a story."}], "videos": ["clip:a"], "channel": "a"}
    walls = []
    for _ in range(4):
        began = time.perf_counter()
        loaded.engine.greedy_tokens([row] * 8, TOKENS)
        walls.append(time.perf_counter() - began)
    return {"wall_ms": 1000 * statistics.median(walls[1:])}


def gpus() -> int:
    """Return how many GPUs torch sees, asked in another process: its memory would be this one's."""
    return int(run("-c", "import torch; print(torch.cuda.device_count())"))


if __name__ == "__main__":
    main()
