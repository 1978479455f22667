"""Measure what an interruption costs: a training killed (SIGKILL) or told to stop (SIGTERM) and started again.

    python -m benchmarks.resume [--data data] [--stage stage1] [--rows N] [--save-every N]

Needs what ``make run`` leaves. Baseline: the same training undisturbed, in the same run. Each interruption comes in the
middle, halfway between two checkpoints. Beside the time it costs stand the steps done twice; the loss curve and every
published byte must be the undisturbed run's. CPU seconds are of all processes of a run: the machine may be busy.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.training import Folders
from emoverse.artifacts.digests import folder_files

BATCH = 8
EPOCHS = 6.0
PREEMPTED = 75


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--stage", choices=("stage1", "stage2"), default="stage1")
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--save-every", type=int, default=20, help="optimizer steps between checkpoints")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resume-benchmark-") as name:
        work = Path(name)
        data = args.data.absolute()
        folders = Folders(data.parent, data, args.stage, args.rows, work)
        steps = int(EPOCHS) * -(-len(folders.rows) // BATCH)
        middle = steps // 2 // args.save_every * args.save_every + args.save_every // 2
        whole = run(folders, work / "undisturbed", args.save_every)
        start = whole["wall"] - whole["training"]["seconds"]
        print(f"{steps} steps, a checkpoint every {args.save_every}, interrupted after step {middle}")
        print(f"{'':14}{'wall s':>8}{'CPU s':>8}{'lost wall s':>13}{'lost CPU s':>12}{'steps twice':>13}  same bytes")
        print(f"{'undisturbed':14}{whole['wall']:8.1f}{whole['cpu']:8.1f}   of it start-up and end {start:.1f} s")
        for how in (signal.SIGKILL, signal.SIGTERM):
            found = run(folders, work / how.name, args.save_every, interrupt=(how, middle))
            same = folder_files(work / how.name / "out") == folder_files(work / "undisturbed" / "out")
            twice = whole["training"]["steps"] - found["training"]["steps"]
            twice = found["stopped"] - twice
            lost = [found[key] - whole[key] for key in ("wall", "cpu")]
            print(
                f"{how.name:14}{found['wall']:8.1f}{found['cpu']:8.1f}{lost[0]:13.1f}{lost[1]:12.1f}{twice:13}  {same}"
            )


def run(
    folders: Folders, work: Path, save_every: int, interrupt: tuple[signal.Signals, int] | None = None
) -> dict[str, Any]:
    """Train, stopped once by ``interrupt`` (signal, step) and started again; return its seconds and its report."""
    work.mkdir()
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "accumulation": 1, "save_every": save_every}
    command = [*folders.train_command(settings), "--out", str(work / "out")]
    began, cpu, stopped = time.perf_counter(), 0.0, 0
    if interrupt is not None:
        how, step = interrupt
        process = start(command, work)
        stopped = wait_for_step(work, step, process)
        process.send_signal(how)
        cpu += finish(process, work, expected=PREEMPTED if how == signal.SIGTERM else -how)
        stopped = max(stopped, last_step(work))
    cpu += finish(start(command, work), work, expected=0)
    wall = time.perf_counter() - began
    report = json.loads((work / "out.run.json").read_text("utf-8"))
    return {"wall": wall, "cpu": cpu, "stopped": stopped, "training": report["training"]}


def start(command: list[str], work: Path) -> subprocess.Popen[bytes]:
    with (work / "log.txt").open("ab") as log:
        return subprocess.Popen(
            command, env={**os.environ, "EMOVERSE_SCRATCH": str(work / "scratch")}, stdout=log, stderr=log
        )


def finish(process: subprocess.Popen[bytes], work: Path, expected: int) -> float:
    """Wait for a run; return its CPU seconds. Exits when it ended otherwise than expected."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != expected:
        raise SystemExit(f"ended with {process.returncode}:\n{(work / 'log.txt').read_text('utf-8')[-3000:]}")
    return used.ru_utime + used.ru_stime


def wait_for_step(work: Path, step: int, process: subprocess.Popen[bytes]) -> int:
    while process.poll() is None:
        if (reached := last_step(work)) >= step:
            return reached
        time.sleep(0.005)
    raise SystemExit(f"ended too soon:\n{(work / 'log.txt').read_text('utf-8')[-3000:]}")


def last_step(work: Path) -> int:
    """Return the last optimizer step in the ledger of the training in ``work``."""
    found = 0
    for path in (work / "scratch").glob("train/*/ledger-0.jsonl"):
        for line in path.read_text("utf-8").splitlines():
            if line.endswith("}"):
                found = max(found, int(json.loads(line)["step"]))
    return found


if __name__ == "__main__":
    main()
