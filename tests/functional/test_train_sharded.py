"""Two processes that divide the training's state by DeepSpeed's ZeRO learn what one does, also after a kill."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.torch import load_file

from emoverse.artifacts.digests import folder_files
from emoverse.artifacts.manifest import read_manifest
from emoverse.training.train import train
from tests.factories.ranks import hold_training, log_of, make_inputs, printed_by, release, start_training
from tests.factories.training import train_params

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed, an optional package")


@pytest.mark.parametrize("tuner", ["lora", "full"])
@pytest.mark.parametrize("sharding", ["zero2", "zero3"])
def test_sharded_training_learns_what_one_process_does_and_goes_on_after_a_kill(
    sharding: str, tuner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = make_inputs(tmp_path, train_params(batch_size=2, gpus=2, sharding=sharding, tuner=tuner))
    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))
    one = train_params(batch_size=4, tuner=tuner)
    train("stage1", folders["model"], folders["amt"], [folders["meld"]], tmp_path / "one", one)
    places = [tmp_path / "whole", tmp_path / "killed"]
    for place in places:
        place.mkdir()
    assert start_training(folders, places[0]).wait() == 0, printed_by(places[0])
    process, _ = hold_training(folders, places[1], 3)
    process.kill()
    process.wait()
    release(places[1])
    assert start_training(folders, places[1]).wait() == 0, printed_by(places[1])
    assert "train: resuming from checkpoint-2" in printed_by(places[1])
    whole, killed = (place / "out" for place in places)
    assert folder_files(whole) == folder_files(killed)
    assert "deepspeed" in read_manifest(whole)["libraries"]
    alone, divided = log_of(tmp_path / "one"), log_of(whole)
    assert [entry["loss"] for entry in divided] == pytest.approx([entry["loss"] for entry in alone], abs=2e-3)
    assert (tmp_path / "one/rows.json").read_bytes() == (whole / "rows.json").read_bytes()
    first, second = (load_file(folder / "model/model.safetensors") for folder in (tmp_path / "one", whole))
    assert first.keys() == second.keys()
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 2e-3
