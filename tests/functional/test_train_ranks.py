"""Several processes of one machine train as one does (here on two cores, as there is no second GPU)."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from emoverse.training.step import train
from tests.factories.training import make_training, train_params


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]


def test_two_processes_see_every_row_and_learn_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))
    house = make_training(tmp_path / "house")
    places = (house["model"], house["amt"], [house["meld"]])
    train("stage1", *places, tmp_path / "one", train_params(batch_size=4))
    train("stage1", *places, tmp_path / "two", train_params(batch_size=2, gpus=2))
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    assert [entry["step"] for entry in one] == [entry["step"] for entry in two]
    assert [entry["loss"] for entry in two] == pytest.approx([entry["loss"] for entry in one], abs=2e-3)
    assert (tmp_path / "one/rows.json").read_bytes() == (tmp_path / "two/rows.json").read_bytes()
    first, second = (load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two"))
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 2e-3
