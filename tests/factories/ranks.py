"""Start trainings of several processes, and hold them before a step so that a test finds them there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from emoverse.config import TrainParams, plain
from tests.factories.training import make_training

REPO = Path(__file__).resolve().parents[2]

# What Python runs first in every process: a rank waits before the step that the file `hold` names, until it is gone.
HELD = """
import os, pathlib, sys, time
if "emoverse.training.launch" in sys.orig_argv:
    from swift.trainers import Seq2SeqTrainer
    step = Seq2SeqTrainer.training_step
    def held(self, *args, **kwargs):
        hold = pathlib.Path("hold")
        if hold.exists() and self.state.global_step == int(hold.read_text()):
            os.write(2, b"a rank about to die\\n")
            pathlib.Path(f"held-{os.environ['RANK']}").write_text(str(os.getpid()))
            while hold.exists():
                time.sleep(0.01)
        return step(self, *args, **kwargs)
    Seq2SeqTrainer.training_step = held
"""


def make_inputs(folder: Path, params: TrainParams) -> dict[str, Path]:
    """Synthesise what a training reads, with a params.yaml for stage 1 and a folder `first` that holds it."""
    tree = yaml.safe_load((REPO / "params.yaml").read_text("utf-8"))
    (folder / "params.yaml").write_text(yaml.safe_dump({**tree, "stage1": plain(params)}))
    (folder / "first").mkdir()
    (folder / "first/sitecustomize.py").write_text(HELD)
    return {**make_training(folder), "params": folder / "params.yaml", "first": folder / "first"}


def start_training(
    folders: dict[str, Path], folder: Path, node: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Train stage 1 to `out` in a folder, by the command line; its output goes to `log.txt` (`log-1.txt`: node 1)."""
    words = ["train", "--stage", "stage1", "--model", folders["model"], "--amt", folders["amt"], "--validated",
             folders["meld"], "--out", folder / "out", "--params", folders["params"]]  # fmt: skip
    number = (node or {}).get("PET_NODE_RANK", "0")
    environment = {**os.environ, **(node or {}), "EMOVERSE_SCRATCH": str(folder / "scratch"), "TMPDIR": str(folder)}
    environment["PYTHONPATH"] = os.pathsep.join([str(folders["first"]), str(REPO), os.environ.get("PYTHONPATH", "")])
    with (folder / _log_of(number)).open("wb") as log:
        command = [sys.executable, "-m", "emoverse.cli", *map(str, words)]
        return subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)


def _log_of(node: str) -> str:
    return "log.txt" if node == "0" else f"log-{node}.txt"


def printed_by(folder: Path, node: str = "0") -> list[str]:
    """Return what the last training in a folder printed, on one of its nodes."""
    return (folder / _log_of(node)).read_text("utf-8").splitlines()


def nodes(count: int) -> list[dict[str, str]]:
    """Return the variables that tell each of several nodes, all of them this machine, where they meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"PET_NNODES": str(count), "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}
    return [{**common, "PET_NODE_RANK": str(number)} for number in range(count)]


def wait_until(happened: Callable[[], Any], seconds: float = 180.0) -> None:
    """Wait for what surely comes; fail after a time that only a broken machine takes."""
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, happened
        time.sleep(0.02)


def hold_training(folders: dict[str, Path], folder: Path, step: int) -> tuple[subprocess.Popen[bytes], list[int]]:
    """Start a training that waits before a step; return it and its processes' ids by rank, once they wait."""
    (folder / "hold").write_text(str(step))
    marks = [folder / f"held-{rank}" for rank in range(2)]
    for mark in marks:
        mark.unlink(missing_ok=True)
    process = start_training(folders, folder)
    wait_until(lambda: process.poll() is not None or all(mark.is_file() and mark.read_text() for mark in marks))
    assert process.poll() is None, printed_by(folder)
    return process, [int(mark.read_text()) for mark in marks]


def release(folder: Path) -> None:
    """Let the training go on."""
    (folder / "hold").unlink()


def log_of(out: Path) -> list[dict[str, Any]]:
    """Return the log of a finished training."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
