"""Several processes of one machine train as one does (here on two cores, as there is no second GPU).

A preempted and a killed training go on and end with the bytes of the undisturbed one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from emoverse.artifacts.digests import folder_files
from emoverse.cli.models import PREEMPTED
from emoverse.training.train import train
from tests.factories.ranks import hold_training, log_of, make_inputs, printed_by, release, start_training, wait_until
from tests.factories.training import train_params

ONE, TWO = train_params(batch_size=4), train_params(batch_size=2, gpus=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_inputs(tmp_path_factory.mktemp("folders"), TWO)


@pytest.fixture(scope="module")
def undisturbed(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert start_training(folders, folder).wait() == 0, printed_by(folder)
    return folder / "out"


def test_two_processes_see_every_row_and_learn_what_one_does(
    folders: dict[str, Path], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))
    train("stage1", folders["model"], folders["amt"], [folders["meld"]], tmp_path / "one", ONE)
    one, two = log_of(tmp_path / "one"), log_of(undisturbed)
    assert [entry["step"] for entry in one] == [entry["step"] for entry in two]
    assert [entry["loss"] for entry in two] == pytest.approx([entry["loss"] for entry in one], abs=2e-3)
    assert (tmp_path / "one/rows.json").read_bytes() == (undisturbed / "rows.json").read_bytes()
    first, second = (load_file(folder / "model/model.safetensors") for folder in (tmp_path / "one", undisturbed))
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 2e-3


def test_whatever_ends_two_processes_they_say_so_in_a_line_and_go_on_to_the_same_bytes(
    folders: dict[str, Path], undisturbed: Path, tmp_path: Path
) -> None:
    process, ranks = hold_training(folders, tmp_path, 2)
    os.kill(ranks[1], signal.SIGKILL)
    release(tmp_path)
    assert process.wait() == 2
    assert printed_by(tmp_path) == [
        "emoverse: rank 1 of 2: ended by SIGKILL, so training stopped; last stderr line: 'a rank about to die'; check "
        "whether memory ran out (a smaller train.batch_size and fewer train.workers need less), and run again to "
        "resume from checkpoint-2"
    ]

    process, ranks = hold_training(folders, tmp_path, 3)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: list(tmp_path.glob("scratch/train/*/stop")))
    release(tmp_path)
    assert process.wait() == PREEMPTED
    assert printed_by(tmp_path) == [
        "train: resuming from checkpoint-2",
        "emoverse: stopped at step 4 of 6, saved; run again to resume",
    ]
    assert not (tmp_path / "out").exists()

    assert start_training(folders, tmp_path).wait() == 0
    assert printed_by(tmp_path)[0] == "train: resuming from checkpoint-4"
    assert folder_files(tmp_path / "out") == folder_files(undisturbed)


def test_a_process_ends_with_the_one_that_started_it() -> None:
    alone = (
        "import os, time; from emoverse.training import launch; "
        "launch._end_with_parent(os.getppid()); print(os.getpid())"
    )
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
