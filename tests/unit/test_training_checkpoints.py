"""Scratch folders and checkpoints: what names them, and which of them training may go on from."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from emoverse.training.checkpoints import Ledger, fingerprint_of, last_complete, set_aside_if_inconsistent


def make_checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"weight": torch.ones(4)}, path / "adapter_model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.zeros(3)}, path / name)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def test_the_newest_complete_checkpoint_is_found_by_number_not_by_name(tmp_path: Path) -> None:
    for step in (90, 100, 9):
        make_checkpoint(tmp_path, step)
    assert last_complete(tmp_path, 1) == (tmp_path / "checkpoint-100", [])


def test_nothing_is_found_in_a_folder_without_checkpoints(tmp_path: Path) -> None:
    assert last_complete(tmp_path / "absent", 1) == (None, [])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: (path / "trainer_state.json").unlink(), "no trainer_state.json"),
        (lambda path: truncate(path / "trainer_state.json"), "cut off"),
        (lambda path: truncate(path / "adapter_model.safetensors"), "adapter_model.safetensors"),
        (lambda path: (path / "adapter_model.safetensors").unlink(), "no weights"),
        (lambda path: (path / "optimizer.pt").write_bytes(b""), "optimizer.pt is cut off"),
        (lambda path: (path / "scheduler.pt").unlink(), "no scheduler.pt"),
        (lambda path: truncate(path / "rng_state.pth"), "rng_state.pth is cut off"),
        (lambda path: (path / "trainer_state.json").write_text('{"global_step": 3}'), "another step"),
    ],
)
def test_an_incomplete_checkpoint_is_skipped_by_name_and_the_one_before_it_used(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    good, bad = make_checkpoint(tmp_path, 10), make_checkpoint(tmp_path, 20)
    spoil(bad)
    found, skipped = last_complete(tmp_path, 1)
    assert found == good
    assert len(skipped) == 1
    assert "checkpoint-20" in skipped[0]
    assert reason in skipped[0]


def test_a_checkpoint_that_one_of_two_processes_has_not_finished_is_skipped(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, 10)
    (path / "rng_state.pth").rename(path / "rng_state_0.pth")
    assert last_complete(tmp_path, 2) == (None, ["checkpoint-10 is incomplete (no rng_state_1.pth), not used"])
    torch.save({"state": torch.zeros(3)}, path / "rng_state_1.pth")
    assert last_complete(tmp_path, 2) == (path, [])


def test_any_change_of_parameters_inputs_or_code_gives_another_fingerprint() -> None:
    one = fingerprint_of({"seed": 1}, {"amt": "a"}, "code")
    assert one == fingerprint_of({"seed": 1}, {"amt": "a"}, "code")
    others = [
        ({"seed": 2}, {"amt": "a"}, "code"),
        ({"seed": 1}, {"amt": "b"}, "code"),
        ({"seed": 1}, {"amt": "a"}, "c"),
    ]
    assert len({one, *(fingerprint_of(*other) for other in others)}) == 4


def test_a_ledger_forgets_steps_that_a_resumed_training_runs_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, resumed_from=0)
    for step, rows in enumerate((["a", "b"], ["c"], ["a"]), 1):
        ledger.add(step, rows)
    with (tmp_path / "ledger-0.jsonl").open("a") as handle:
        handle.write('{"step": 4, "rows": ["b')  # the kill came here
    other = Ledger(tmp_path, resumed_from=2, rank=1)
    other.add(3, ["d"])
    assert Ledger(tmp_path, resumed_from=2).counts(until=9) == {"a": 1, "b": 1, "c": 1, "d": 1}


@pytest.mark.parametrize(
    ("steps", "mixed"),
    [([1, 2, 3], False), ([1, 2, 3, 4, 5], False), ([1, 2, 2, 3], True), ([1, 3], True), ([2, 1, 3], True), ([], True)],
)
def test_a_ledger_that_cannot_belong_to_one_training_is_put_aside(
    tmp_path: Path, steps: list[int], mixed: bool
) -> None:
    folder = tmp_path / "fingerprint"
    make_checkpoint(folder, 3)
    (folder / "ledger-0.jsonl").write_text("".join(json.dumps({"step": n, "rows": ["a"]}) + "\n" for n in steps))
    message = set_aside_if_inconsistent(folder, ranks=1)
    assert bool(message) == mixed
    assert folder.exists() == (not mixed)
    assert (tmp_path / "fingerprint.aside-1" / "checkpoint-3").exists() == mixed
