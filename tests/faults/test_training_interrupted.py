"""Training that is killed, told to stop, or diverges: nothing is lost, and nothing half-done passes for done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from emoverse.artifacts.digests import folder_files
from emoverse.cli.models import PREEMPTED
from emoverse.config import plain
from emoverse.errors import RowErrors, UserError
from emoverse.training.train import train
from tests.factories.training import make_training, train_params

# 24 steps; dropout, so that a resumed training must draw what the undisturbed one drew
PARAMS = train_params(
    epochs=4.0, batch_size=2, save_every=4, lora_dropout=0.05, validation_rows=2, select="loss", deterministic=True
)
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("prepared")
    tree = yaml.safe_load((REPO / "params.yaml").read_text("utf-8"))
    (folder / "params.yaml").write_text(yaml.safe_dump({**tree, "stage1": plain(PARAMS)}))
    return {**make_training(folder), "params": folder / "params.yaml"}


@pytest.fixture(scope="module")
def undisturbed(prepared: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = start(prepared, folder).wait()
    assert done == 0
    return folder / "out"


# The command line, which before the step named in HOLD waits for the file `go` beside it: however fast the machine,
# the test finds it in the middle of its work.
HELD = """
import os, pathlib, sys, time
from swift.trainers import Seq2SeqTrainer
from emoverse.cli import main
step = Seq2SeqTrainer.training_step
def held(self, *args, **kwargs):
    while self.state.global_step == int(os.environ["HOLD"]) and not pathlib.Path("go").exists():
        time.sleep(0.01)
    return step(self, *args, **kwargs)
Seq2SeqTrainer.training_step = held
sys.exit(main())
"""

# The command line on a disk so slow that the optimizer's state never gets written from the eighth step on.
SLOW_DISK = """
import sys, time
from swift.trainers import Seq2SeqTrainer
from emoverse.cli import main
save = Seq2SeqTrainer._save_optimizer_and_scheduler
def slowly(self, folder):
    if self.state.global_step >= 8:
        time.sleep(600)
    save(self, folder)
Seq2SeqTrainer._save_optimizer_and_scheduler = slowly
sys.exit(main())
"""


def start(
    prepared: dict[str, Path], folder: Path, program: Sequence[str] = ("-m", "emoverse.cli")
) -> subprocess.Popen[bytes]:
    words = [
        "train",
        "--stage",
        "stage1",
        "--model",
        prepared["model"],
        "--amt",
        prepared["amt"],
        "--validated",
        prepared["meld"],
    ]
    command = [sys.executable, *program, *words, "--out", folder / "out", "--params", prepared["params"]]
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
    prepared: dict[str, Path], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLD", "9")
    process = start(prepared, tmp_path, ["-c", HELD])
    wait_for(tmp_path, "train/*/checkpoint-8/trainer_state.json", process)
    process.kill()
    process.wait()
    assert not (tmp_path / "out").exists()
    assert start(prepared, tmp_path).wait() == 0
    assert "resuming from checkpoint-" in (tmp_path / "log.txt").read_text("utf-8")
    assert folder_files(tmp_path / "out") == folder_files(undisturbed)
    assert steps_of(tmp_path / "out") == list(range(1, 25))


def test_sigterm_saves_a_checkpoint_and_exits_with_its_own_code(
    prepared: dict[str, Path], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLD", "5")
    process = start(prepared, tmp_path, ["-c", HELD])
    wait_for(tmp_path, "train/*/checkpoint-4/trainer_state.json", process)
    process.send_signal(signal.SIGTERM)
    (tmp_path / "go").touch()
    assert process.wait() == PREEMPTED
    assert not (tmp_path / "out").exists()
    assert "run again to resume" in (tmp_path / "log.txt").read_text("utf-8")
    assert start(prepared, tmp_path).wait() == 0
    assert folder_files(tmp_path / "out") == folder_files(undisturbed)


def test_a_kill_while_a_checkpoint_is_saved_costs_that_checkpoint_and_the_log_says_so(
    prepared: dict[str, Path], undisturbed: Path, tmp_path: Path
) -> None:
    process = start(prepared, tmp_path, ["-c", SLOW_DISK])
    weights = wait_for(tmp_path, "train/*/checkpoint-8/adapter_config.json", process)
    process.kill()
    process.wait()
    assert not (weights.parent / "trainer_state.json").exists()
    assert start(prepared, tmp_path).wait() == 0
    log = (tmp_path / "log.txt").read_text("utf-8")
    assert "checkpoint-8 is incomplete (no trainer_state.json), not used" in log
    assert "resuming from checkpoint-4" in log
    assert folder_files(tmp_path / "out") == folder_files(undisturbed)


def test_a_disk_that_fills_up_is_named_and_the_checkpoint_before_stays(
    prepared: dict[str, Path],
    undisturbed: Path,
    make_disk: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from swift.trainers import Seq2SeqTrainer

    small_disk = make_disk("2m")
    monkeypatch.setenv("EMOVERSE_SCRATCH", str(small_disk))
    inner, filler = Seq2SeqTrainer._save_optimizer_and_scheduler, small_disk / "filler"

    def crowded(self: Any, folder: str) -> None:
        if self.state.global_step == 8:
            filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 8192))
        inner(self, folder)

    monkeypatch.setattr(Seq2SeqTrainer, "_save_optimizer_and_scheduler", crowded)
    folders = (prepared["model"], prepared["amt"], [prepared["meld"]], tmp_path / "out", PARAMS)
    with pytest.raises(UserError, match=r"the disk is full: \d+ bytes are free now, a checkpoint takes more") as caught:
        train("stage1", *folders)
    assert str(small_disk) in str(caught.value)
    assert [path.name for path in small_disk.glob("train/*/checkpoint-*")] == ["checkpoint-4"]
    assert not (tmp_path / "out").exists()
    filler.unlink()
    monkeypatch.undo()
    monkeypatch.setenv("EMOVERSE_SCRATCH", str(small_disk))
    train("stage1", *folders)
    assert folder_files(tmp_path / "out") == folder_files(undisturbed)


def test_a_row_that_the_trainer_puts_in_anothers_place_fails_the_step_by_name(
    prepared: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swift.dataset import LazyLLMDataset

    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))
    inner = LazyLLMDataset.__getitem__
    monkeypatch.setattr(LazyLLMDataset, "__getitem__", lambda self, k: inner(self, 5 if k == 3 else k))
    params = train_params(epochs=1.0)
    with pytest.raises(
        UserError, match=r"2 of 12 rows were not trained once an epoch: mer/meld/\S+ 0 times, .* 2 times"
    ):
        train("stage1", prepared["model"], prepared["amt"], [prepared["meld"]], tmp_path / "out", params)
    assert not (tmp_path / "out").exists()


def test_a_row_that_the_trainer_cuts_stops_it_at_once_by_name(
    prepared: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swift.dataset import LazyLLMDataset

    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))
    inner = LazyLLMDataset.__getitem__

    def cut(self: Any, number: Any) -> Any:
        row = inner(self, number)
        if number == 3:
            row = {**row, "input_ids": row["input_ids"][:-2], "labels": row["labels"][:-2]}
        return row

    monkeypatch.setattr(LazyLLMDataset, "__getitem__", cut)
    with pytest.raises(RowErrors, match=r"mer/meld/\S+: \d+ tokens, expected \d+"):
        train("stage1", prepared["model"], prepared["amt"], [prepared["meld"]], tmp_path / "out", PARAMS)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    prepared: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        train("stage1", prepared["model"], prepared["amt"], [prepared["meld"]], tmp_path / "out", PARAMS)
    assert not (tmp_path / "out").exists()
    (weights,) = (tmp_path / "scratch").glob("train/*/checkpoint-4/adapter_model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in load_file(weights).values())


def test_a_second_training_to_the_same_folder_says_who_holds_it(
    prepared: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLD", "5")
    process = start(prepared, tmp_path, ["-c", HELD])
    wait_for(tmp_path, "train/*/checkpoint-4/trainer_state.json", process)
    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))
    for name in ("out", "other"):  # the same folder, and another one: they share the scratch folder
        with pytest.raises(UserError, match=f"process {process.pid}"):
            train("stage1", prepared["model"], prepared["amt"], [prepared["meld"]], tmp_path / name, PARAMS)
    assert not (tmp_path / "other").exists()
    process.kill()
    process.wait()
