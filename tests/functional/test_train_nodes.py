"""Two nodes, each started by the same command, learn what one process does, and say what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from emoverse.artifacts.digests import folder_files
from emoverse.cli.models import PREEMPTED
from emoverse.errors import UserError
from emoverse.training import distributed
from emoverse.training.distributed import Node, agree, this_node
from emoverse.training.train import train
from tests.factories.ranks import log_of, make_inputs, nodes, printed_by, release, start_training, wait_until
from tests.factories.training import train_params

ON_NODES = train_params(batch_size=2, nodes=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_inputs(tmp_path_factory.mktemp("folders"), ON_NODES)


@pytest.fixture(scope="module")
def undisturbed(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert ended(start_on_nodes(folders, folder)) == [0, 0], (printed_by(folder), printed_by(folder, "1"))
    return folder / "out"


def start_on_nodes(folders: dict[str, Path], folder: Path) -> list[subprocess.Popen[bytes]]:
    """Start the same training on two nodes, which are this machine."""
    return [start_training(folders, folder, node) for node in nodes(2)]


def ended(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Return the exit code of each node."""
    return [process.wait() for process in processes]


def test_two_nodes_see_every_row_and_learn_what_one_process_does(
    folders: dict[str, Path], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))
    one = train_params(batch_size=4)
    train("stage1", folders["model"], folders["amt"], [folders["meld"]], tmp_path / "one", one)
    alone, together = log_of(tmp_path / "one"), log_of(undisturbed)
    assert [entry["step"] for entry in alone] == [entry["step"] for entry in together]
    assert [entry["loss"] for entry in together] == pytest.approx([entry["loss"] for entry in alone], abs=2e-3)
    assert (tmp_path / "one/rows.json").read_bytes() == (undisturbed / "rows.json").read_bytes()


def test_a_node_that_is_ended_saves_with_the_others_and_all_go_on_to_the_same_bytes(
    folders: dict[str, Path], undisturbed: Path, tmp_path: Path
) -> None:
    (tmp_path / "hold").write_text("3")
    processes = start_on_nodes(folders, tmp_path)
    held = [tmp_path / f"held-{rank}" for rank in range(2)]
    wait_until(lambda: all(mark.is_file() for mark in held) or any(one.poll() for one in processes), seconds=900.0)
    assert all(mark.is_file() for mark in held), (printed_by(tmp_path), printed_by(tmp_path, "1"))
    processes[1].send_signal(signal.SIGTERM)
    wait_until(lambda: list(tmp_path.glob("scratch/train/*/stop")))
    release(tmp_path)
    assert ended(processes) == [PREEMPTED, PREEMPTED]
    for node in ("0", "1"):
        assert printed_by(tmp_path, node)[-1] == "emoverse: stopped at step 4 of 6, saved; run again to resume"
    assert not (tmp_path / "out").exists()

    assert ended(start_on_nodes(folders, tmp_path)) == [0, 0]
    assert printed_by(tmp_path)[0] == "train: resuming from checkpoint-4"
    assert folder_files(tmp_path / "out") == folder_files(undisturbed)


def variables(**changes: str) -> dict[str, str]:
    """Return what tells node 1 of 2 where the nodes meet."""
    found = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "first", "PET_MASTER_PORT": "29500"}
    return {name: value for name, value in {**found, **changes}.items() if value}


@pytest.mark.parametrize(
    ("count", "given", "words"),
    [
        (2, {}, "train.nodes: is 2, but PET_NNODES and PET_NODE_RANK and PET_MASTER_ADDR and PET_MASTER_PORT are not"),
        (2, variables(PET_MASTER_ADDR=""), "train.nodes: is 2, but PET_MASTER_ADDR is not set; start the same command"),
        (3, variables(), "PET_NNODES: is 2, but train.nodes is 3"),
        (1, variables(), "PET_NNODES: 2 machines were started, but train.nodes is 1; set train.nodes to 2"),
        (2, variables(PET_NODE_RANK="2"), "PET_NODE_RANK: '2' is not a number up to 1"),
        (2, variables(PET_MASTER_PORT="ssh"), "PET_MASTER_PORT: 'ssh' is not a number up to 65535"),
        (1, {"TORCHELASTIC_RUN_ID": "x"}, "torchrun started it, but training starts a process for each GPU itself"),
    ],
)
def test_what_contradicts_the_number_of_nodes_is_refused(
    count: int, given: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("PET_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        this_node(train_params(nodes=count))
    assert words in str(caught.value)


def test_a_node_knows_its_rank_and_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables().items():
        monkeypatch.setenv(name, value)
    assert this_node(ON_NODES) == Node(1, "first", 29500)


def test_nodes_agree_on_the_checkpoint_and_must_share_the_folder_it_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed import TCPStore

    assert agree(tmp_path, "checkpoint-2") == "checkpoint-2"  # alone
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "meeting-of-an-earlier-try").touch()
    monkeypatch.setenv("RANK", "0")
    assert agree(tmp_path, "checkpoint-2") == "checkpoint-2"
    assert len(list(tmp_path.glob("meeting-*"))) == 1
    monkeypatch.setenv("RANK", "1")
    assert agree(tmp_path, "") == "checkpoint-2"
    monkeypatch.setattr(distributed, "VISIBLE_AFTER", 0.1)
    with pytest.raises(
        UserError, match="the machines that train together do not share it; set EMOVERSE_SCRATCH on all"
    ):
        agree(tmp_path / "elsewhere", "")
