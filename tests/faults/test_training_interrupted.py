"""Training that is killed, told to stop, or diverges: nothing is lost, and nothing half-done passes for done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from emoverse.digests import folder_files
from emoverse.errors import UserError
from emoverse.params import plain
from emoverse.training.step import train
from emoverse.verbs.train import PREEMPTED
from tests.factories.training import make_training, train_params

PARAMS = train_params(epochs=4.0, batch_size=2, save_every=4)  # 24 steps
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("house")
    tree = yaml.safe_load((REPO / "params.yaml").read_text("utf-8"))
    (folder / "params.yaml").write_text(yaml.safe_dump({**tree, "stage1": plain(PARAMS)}))
    return {**make_training(folder), "params": folder / "params.yaml"}


@pytest.fixture(scope="module")
def undisturbed(house: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = start(house, folder).wait()
    assert done == 0
    return folder / "out"


def start(house: dict[str, Path], folder: Path) -> subprocess.Popen[bytes]:
    words = [
        "train",
        "--stage",
        "stage1",
        "--model",
        house["model"],
        "--amt",
        house["amt"],
        "--validated",
        house["meld"],
    ]
    command = [sys.executable, "-m", "emoverse.cli", *words, "--out", folder / "out", "--params", house["params"]]
    environment = {**os.environ, "EMOVERSE_SCRATCH": str(folder / "scratch"), "PYTHONPATH": str(REPO)}
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(list(map(str, command)), env=environment, cwd=folder, stdout=log, stderr=log)


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[bytes], seconds: float = 120.0) -> Path:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := list((folder / "scratch").glob(pattern)):
            return found[0]
        assert process.poll() is None, (folder / "log.txt").read_text("utf-8")[-2000:]
        time.sleep(0.01)
    raise AssertionError(f"no {pattern} after {seconds} s")


def steps_of(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "log.jsonl").read_text("utf-8").splitlines()]


def test_a_killed_training_goes_on_from_its_checkpoint_and_ends_with_the_same_bytes(
    house: dict[str, Path], undisturbed: Path, tmp_path: Path
) -> None:
    process = start(house, tmp_path)
    wait_for(tmp_path, "train/*/checkpoint-8/trainer_state.json", process)
    process.kill()
    process.wait()
    assert not (tmp_path / "out").exists()
    assert start(house, tmp_path).wait() == 0
    assert "going on from checkpoint-" in (tmp_path / "log.txt").read_text("utf-8")
    assert folder_files(tmp_path / "out") == folder_files(undisturbed)
    assert steps_of(tmp_path / "out") == list(range(1, 25))


def test_sigterm_saves_a_checkpoint_and_exits_with_its_own_code(
    house: dict[str, Path], undisturbed: Path, tmp_path: Path
) -> None:
    process = start(house, tmp_path)
    wait_for(tmp_path, "train/*/checkpoint-4/trainer_state.json", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == PREEMPTED
    assert not (tmp_path / "out").exists()
    assert "run again to go on" in (tmp_path / "log.txt").read_text("utf-8")
    assert start(house, tmp_path).wait() == 0
    assert folder_files(tmp_path / "out") == folder_files(undisturbed)


def test_an_incomplete_checkpoint_is_skipped_and_the_log_says_so(
    house: dict[str, Path], undisturbed: Path, tmp_path: Path
) -> None:
    process = start(house, tmp_path)
    state = wait_for(tmp_path, "train/*/checkpoint-8/trainer_state.json", process)
    process.kill()
    process.wait()
    state.unlink()  # transformers writes it last: so a checkpoint looks that was being written
    for later in state.parent.parent.glob("checkpoint-1*"):
        (later / "trainer_state.json").unlink(missing_ok=True)
    assert start(house, tmp_path).wait() == 0
    log = (tmp_path / "log.txt").read_text("utf-8")
    assert "checkpoint-8 is incomplete (no trainer_state.json), not used" in log
    assert "going on from checkpoint-4" in log
    assert folder_files(tmp_path / "out") == folder_files(undisturbed)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    house: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file
    from swift.trainers import Seq2SeqTrainer

    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))
    inner = Seq2SeqTrainer.compute_loss

    def overflow(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = inner(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 6 else loss

    monkeypatch.setattr(Seq2SeqTrainer, "compute_loss", overflow)
    with pytest.raises(UserError, match=r"loss nan at step 7 \(rows mer/meld/"):
        train("stage1", house["model"], house["amt"], [house["meld"]], tmp_path / "out", PARAMS)
    assert not (tmp_path / "out").exists()
    (weights,) = (tmp_path / "scratch").glob("train/*/checkpoint-4/adapter_model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in load_file(weights).values())


def test_a_second_training_to_the_same_folder_says_who_holds_it(house: dict[str, Path], tmp_path: Path) -> None:
    process = start(house, tmp_path)
    wait_for(tmp_path, "train/*/checkpoint-4/trainer_state.json", process)
    with pytest.raises(UserError, match=f"process {process.pid}"):
        train("stage1", house["model"], house["amt"], [house["meld"]], tmp_path / "out", PARAMS)
    process.kill()
    process.wait()
