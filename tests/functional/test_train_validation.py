"""Validation during and after a stage: its loss and scores, and the checkpoint that they select."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from emoverse.artifacts.digests import folder_files
from emoverse.artifacts.manifest import read_manifest
from emoverse.config import TrainParams
from emoverse.errors import RowErrors
from emoverse.export.export import require_floor, scores_for_floor
from emoverse.media.frames import FrameStore
from emoverse.prompt import Encoder, settings_of_model
from emoverse.training.train import train
from tests.factories.training import make_training, train_params


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_training(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def run(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))

    def train_to(name: str, params: TrainParams) -> Path:
        train("stage1", inputs["model"], inputs["amt"], [inputs["meld"]], tmp_path / name, params)
        return tmp_path / name

    return train_to


def validation_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "validation.json").read_text("utf-8")))


def loss_by_transformers(out: Path, inputs: dict[str, Path]) -> float:
    """Compute the loss of the validation answers one row at a time, with transformers' own forward pass."""
    folder = out / "model"
    encoder, frames = Encoder(folder, settings_of_model(folder)), FrameStore([inputs["meld"]])
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    nats, tokens = 0.0, 0
    for line in (inputs["amt"] / "validation" / "meld-mer.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        shown = frames[(row["videos"] + row["images"])[0]]
        answer = encoder.answer_ids(row["messages"][-1]["content"])
        ids = [*encoder.prompt_ids([row], [len(shown)])[0].tolist(), *answer]
        with torch.inference_mode():
            pixels = torch.from_numpy(encoder.pixels(shown))
            steps = model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0].double().log_softmax(-1)
        nats -= sum(steps[len(ids) - len(answer) - 1 + k, token].item() for k, token in enumerate(answer))
        tokens += len(answer)
    return nats / tokens


def test_each_checkpoint_and_the_published_model_are_scored_on_the_sets_of_the_stage(
    run: Callable[..., Path], inputs: dict[str, Path]
) -> None:
    out = run("out", train_params(validation_rows=100))
    result = validation_of(out)
    assert [entry["step"] for entry in result["steps"]] == [2, 4, 6]
    assert list(result["sets"]) == ["meld-mer"], "the stage has no rows of meld-msa"
    assert result["sets"]["meld-mer"]["n"] == 6
    assert result["loss"] == pytest.approx(loss_by_transformers(out, inputs), abs=1e-4)
    # the last checkpoint before merging is the published model
    assert result["steps"][-1]["loss"] == pytest.approx(result["loss"], abs=1e-4)
    assert result["tasks"]["mer"]["accuracy"] == result["sets"]["meld-mer"]["accuracy"]


def test_scoring_does_not_change_the_training(run: Callable[..., Path]) -> None:
    params = train_params(lora_dropout=0.05)
    without, scored = run("without", params), run("with", train_params(lora_dropout=0.05, validation_rows=2))
    files = folder_files(scored)
    files.pop("validation.json")
    assert files == folder_files(without)


def only_joy(rows: list[dict[str, Any]]) -> None:
    """Give every row of a stage the same answer: learning it makes other answers less likely."""
    for row in rows:
        row["messages"][2]["content"] = "Joy."


def test_the_checkpoint_with_the_lowest_loss_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))
    folders, out = make_training(tmp_path / "inputs", only_joy), tmp_path / "out"
    params = train_params(epochs=5.0, learning_rate=3e-2, validation_rows=100, select="loss", save_every=1)
    train("stage1", folders["model"], folders["amt"], [folders["meld"]], out, params)
    result, facts = validation_of(out), read_manifest(out)["facts"]
    losses = {entry["step"]: entry["loss"] for entry in result["steps"]}
    best = min(losses, key=lambda step: losses[step])
    assert best < facts["steps"], "this training must get worse, or the test shows nothing"
    assert facts["selected_step"] == best
    assert result["loss"] == pytest.approx(losses[best], abs=1e-3)
    rows = json.loads((out / "rows.json").read_text("utf-8"))
    assert sum(rows["trained"].values()) == best * 4, "rows trained after the selected checkpoint do not count"


def test_a_validation_row_without_frames_stops_the_step_before_it_trains(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    def spoil(rows: Any) -> None:
        del rows[0]

    folders = make_training(tmp_path / "inputs", spoil)
    other = make_training(tmp_path / "other", count=3)
    with pytest.raises(RowErrors, match="no frames of"):
        train("stage1", folders["model"], folders["amt"], [other["meld"]], tmp_path / "out",
              train_params(validation_rows=2))  # fmt: skip


def test_the_floor_is_compared_with_the_validation_scores_of_the_model(run: Callable[..., Path]) -> None:
    out = run("out", train_params(validation_rows=2))
    scores = scores_for_floor(out, {"mer": {"accuracy": -1.0}})
    assert scores == validation_of(out)["tasks"]
    require_floor(scores, {"mer": {"accuracy": 0.0}})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"select": "loss"}, "select loss needs scored rows"),
        ({"sharding": "zero3", "gpus": 2, "validation_rows": 2}, "zero3 leaves no GPU all weights"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        train_params(**changes)
