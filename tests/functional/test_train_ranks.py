"""Several processes of one machine train as one does (here on two cores, as there is no second GPU).

A preempted and a killed training go on and end with the bytes of the undisturbed one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from emoverse.digests import folder_files
from emoverse.params import plain
from emoverse.training.step import train
from emoverse.verbs.train import PREEMPTED
from tests.factories.training import make_training, train_params

REPO = Path(__file__).resolve().parents[2]
ONE, TWO = train_params(batch_size=4), train_params(batch_size=2, gpus=2)

# What Python runs first in every process: a rank waits before the step that the file `hold` names, until it is gone.
HELD = """
import os, pathlib, sys, time
if "emoverse.training.ranks" in sys.orig_argv:
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


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("house")
    tree = yaml.safe_load((REPO / "params.yaml").read_text("utf-8"))
    (folder / "params.yaml").write_text(yaml.safe_dump({**tree, "stage1": plain(TWO)}))
    (folder / "first").mkdir()
    (folder / "first/sitecustomize.py").write_text(HELD)
    return {**make_training(folder), "params": folder / "params.yaml", "first": folder / "first"}


@pytest.fixture(scope="module")
def undisturbed(house: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert start(house, folder).wait() == 0, said(folder)
    return folder / "out"


def start(house: dict[str, Path], folder: Path) -> subprocess.Popen[bytes]:
    words = ["train", "--stage", "stage1", "--model", house["model"], "--amt", house["amt"], "--validated",
             house["meld"], "--out", folder / "out", "--params", house["params"]]  # fmt: skip
    environment = {**os.environ, "EMOVERSE_SCRATCH": str(folder / "scratch"), "TMPDIR": str(folder)}
    environment["PYTHONPATH"] = f"{house['first']}:{REPO}"
    with (folder / "log.txt").open("wb") as log:
        command = [sys.executable, "-m", "emoverse.cli", *map(str, words)]
        return subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)


def said(folder: Path) -> list[str]:
    return (folder / "log.txt").read_text("utf-8").splitlines()


def wait_until(happened: Callable[[], Any], seconds: float = 180.0) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, happened
        time.sleep(0.02)


def hold(house: dict[str, Path], folder: Path, step: int) -> tuple[subprocess.Popen[bytes], list[int]]:
    """Start a training that waits before a step; return it and its processes' ids by rank, once they wait."""
    (folder / "hold").write_text(str(step))
    marks = [folder / f"held-{rank}" for rank in range(2)]
    for mark in marks:
        mark.unlink(missing_ok=True)
    process = start(house, folder)
    wait_until(lambda: process.poll() is not None or all(mark.is_file() and mark.read_text() for mark in marks))
    assert process.poll() is None, said(folder)
    return process, [int(mark.read_text()) for mark in marks]


def release(folder: Path) -> None:
    (folder / "hold").unlink()


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]


def test_two_processes_see_every_row_and_learn_what_one_does(
    house: dict[str, Path], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))
    train("stage1", house["model"], house["amt"], [house["meld"]], tmp_path / "one", ONE)
    one, two = log_of(tmp_path / "one"), log_of(undisturbed)
    assert [entry["step"] for entry in one] == [entry["step"] for entry in two]
    assert [entry["loss"] for entry in two] == pytest.approx([entry["loss"] for entry in one], abs=2e-3)
    assert (tmp_path / "one/rows.json").read_bytes() == (undisturbed / "rows.json").read_bytes()
    first, second = (load_file(folder / "model/model.safetensors") for folder in (tmp_path / "one", undisturbed))
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 2e-3


def test_whatever_ends_two_processes_they_say_so_in_a_line_and_go_on_to_the_same_bytes(
    house: dict[str, Path], undisturbed: Path, tmp_path: Path
) -> None:
    process, ranks = hold(house, tmp_path, 2)
    os.kill(ranks[1], signal.SIGKILL)
    release(tmp_path)
    assert process.wait() == 2
    assert said(tmp_path) == [
        "emoverse: rank 1 of 2: was ended by SIGKILL, so training stopped; its last words: 'a rank about to die'; see "
        "whether memory ran out (a smaller train.batch_size and fewer train.workers take less), and run again to go on "
        "from checkpoint-2"
    ]

    process, ranks = hold(house, tmp_path, 3)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: list(tmp_path.glob("scratch/train/*/stop")))
    release(tmp_path)
    assert process.wait() == PREEMPTED
    assert said(tmp_path) == [
        "train: going on from checkpoint-2",
        "emoverse: stopped at step 4 of 6, saved; run again to go on",
    ]
    assert not (tmp_path / "out").exists()

    assert start(house, tmp_path).wait() == 0
    assert said(tmp_path)[0] == "train: going on from checkpoint-4"
    assert folder_files(tmp_path / "out") == folder_files(undisturbed)


def test_a_process_ends_with_the_one_that_started_it() -> None:
    alone = "import os, time; from emoverse.training import ranks; ranks._die_with(os.getppid()); print(os.getpid())"
    starter = f"""
import subprocess, sys, time
words = [sys.executable, "-c", {alone + "; sys.stdout.flush(); time.sleep(600)"!r}]
with subprocess.Popen(words, start_new_session=True, stdout=subprocess.PIPE) as child:
    print(child.stdout.readline().decode(), flush=True)
    time.sleep(600)
"""
    words = [sys.executable, "-c", starter.replace("import os, time;", "import os, sys, time;")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        process.kill()
    wait_until(lambda: _gone(number), seconds=60.0)


def _gone(number: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{number}/stat").read_text("utf-8")  # ended, its starter's heir not told yet
    except FileNotFoundError:
        return True
