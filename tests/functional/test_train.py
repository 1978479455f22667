"""The step `train`, for real: ms-swift trains a tiny model on rows of AMT, and every row is accounted for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from emoverse.artifacts.digests import folder_files
from emoverse.artifacts.manifest import open_source, read_manifest
from emoverse.config import TrainParams
from emoverse.errors import RowErrors, UserError
from emoverse.training.estimate import preview
from emoverse.training.train import train
from tests.conftest import REPO
from tests.factories.training import make_training, train_params


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_training(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def run(prepared: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))

    def train_to(name: str, params: TrainParams | None = None, **other: Path) -> Path:
        folders = {**prepared, **other}
        out = tmp_path / name
        settings = params or train_params()
        train("stage1", folders["model"], folders["amt"], [folders["meld"]], out, settings, base=other.get("base"))
        return out

    return train_to


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def test_two_trainings_give_the_same_bytes_and_hold_no_path_and_no_time(
    run: Callable[..., Path], tmp_path: Path, prepared: dict[str, Path]
) -> None:
    first, second = run("first"), run("second")
    assert folder_files(first) == folder_files(second)
    assert (first / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()
    assert {name.split("/")[0] for name in folder_files(first)} == {"model", "adapter", "log.jsonl", "rows.json"}
    for name in folder_files(first):
        blob = (first / name).read_bytes()
        assert str(tmp_path).encode() not in blob, name
        assert str(prepared["model"]).encode() not in blob, name
    assert all(set(entry) <= {"loss", "grad_norm", "learning_rate", "epoch", "step"} for entry in log_of(first))


@pytest.mark.slow
def test_the_number_of_openmp_threads_in_the_environment_decides_nothing(
    prepared: dict[str, Path], tmp_path: Path
) -> None:
    digests, words = set(), ["--model", prepared["model"], "--amt", prepared["amt"], "--validated", prepared["meld"]]
    settings = ["media.frames=2", "train.validation_rows=0", "stage1.epochs=1"]
    for threads in ("1", "3"):
        out = tmp_path / threads
        command = [sys.executable, "-m", "emoverse.cli", "train", "--stage", "stage1", *words, "--out", out]
        command += ["--params", REPO / "params.yaml", *(word for one in settings for word in ("--set", one))]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "EMOVERSE_SCRATCH": str(tmp_path / f"scratch{threads}"),
        }
        subprocess.run(list(map(str, command)), env=environment, cwd=tmp_path, check=True, capture_output=True)
        digests.add(open_source(out).digest)
    assert len(digests) == 1
    assert json.loads((tmp_path / "1.run.json").read_text("utf-8"))["cpu_capability"]


def test_every_row_is_trained_once_an_epoch_and_the_ledger_says_so(
    run: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = run("out", train_params(epochs=3.0))
    assert "stage1: step 9/9  loss " in capfd.readouterr().err
    training = json.loads((tmp_path / "out.run.json").read_text("utf-8"))["training"]
    assert (training["steps"], training["rows"]) == (9, 36)
    assert training["tokens"] > 36 * 20
    ledger = json.loads((out / "rows.json").read_text("utf-8"))
    assert ledger["in"] == 12
    assert ledger["dropped"] == []
    assert set(ledger["trained"].values()) == {3}
    assert len(ledger["trained"]) == 12
    assert read_manifest(out)["rows"] == {"in": 12, "out": 12, "dropped": {}}
    assert not [path for path in (tmp_path / "scratch" / "train").iterdir() if path.suffix != ".lock"]


def test_a_preview_gives_the_steps_the_tokens_and_the_trained_parameters_of_the_training(
    run: Callable[..., Path], prepared: dict[str, Path], tmp_path: Path
) -> None:
    params = train_params(epochs=1.0, accumulation=2)
    expected = preview("stage1", prepared["model"], prepared["amt"], [prepared["meld"]], params)
    out = run("out", params)
    training = json.loads((tmp_path / "out.run.json").read_text("utf-8"))["training"]
    assert (training["steps"], training["rows"], training["tokens"]) == (
        expected["steps"],
        expected["rows"],
        expected["tokens"],
    )
    adapter = load_file(out / "adapter" / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in adapter.values()) == expected["parameters"]["trained"]


def test_rows_that_a_part_of_an_epoch_does_not_reach_are_listed_as_dropped(run: Callable[..., Path]) -> None:
    out = run("out", train_params(epochs=0.6, batch_size=4))
    ledger = json.loads((out / "rows.json").read_text("utf-8"))
    assert len(ledger["trained"]) == 8
    assert len(ledger["dropped"]) == 4
    assert read_manifest(out)["rows"]["dropped"] == {"epochs-below-one": 4}


def test_the_loss_falls_and_only_projector_and_language_model_change(
    run: Callable[..., Path], prepared: dict[str, Path]
) -> None:
    out = run("out", train_params(epochs=8.0, learning_rate=5e-3))
    losses = [entry["loss"] for entry in log_of(out)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    before, after = load_file(prepared["model"] / "model" / "model.safetensors"), weights_of(out)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert any("multi_modal_projector" in name for name in changed)
    assert any("self_attn" in name for name in changed)
    assert not [name for name in changed if "vision" in name or "embed_tokens" in name or "lm_head" in name]
    for name in ("tokenizer.json", "chat_template.jinja", "processor_config.json", "generation_config.json"):
        assert (out / "model" / name).read_bytes() == (prepared["model"] / "model" / name).read_bytes()


def test_the_merged_model_answers_as_base_and_adapter_do(run: Callable[..., Path], prepared: dict[str, Path]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    out = run("out")
    ids = torch.arange(20, 60)[None]
    merged = AutoModelForImageTextToText.from_pretrained(out / "model")
    base = AutoModelForImageTextToText.from_pretrained(prepared["model"] / "model")
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        both = PeftModel.from_pretrained(base, out / "adapter")(input_ids=ids).logits
        assert (merged(input_ids=ids).logits - both).abs().max() < 1e-4
        assert (plain - both).abs().max() > 1e-3


def test_full_training_and_a_frozen_projector_are_honoured(run: Callable[..., Path], prepared: dict[str, Path]) -> None:
    before = load_file(prepared["model"] / "model" / "model.safetensors")
    after = weights_of(run("full", train_params(tuner="full", projector="frozen")))
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert any("embed_tokens" in name for name in changed)
    assert not [name for name in changed if "vision" in name or "projector" in name]


def test_a_stage_goes_on_from_the_stage_before(run: Callable[..., Path]) -> None:
    first = run("first")
    second = run("second", model=first)
    assert read_manifest(second)["inputs"]["model"] == read_manifest(first)["outputs"]["digest"]


def test_a_stage_goes_on_with_the_adapter_of_the_stage_before(
    run: Callable[..., Path], prepared: dict[str, Path]
) -> None:
    # the projector trained whole and LoRA in the language model, as the paper's figure has it; the order plain
    figure: dict[str, Any] = {"projector": "full", "group_by_length": False, "workers": 2}
    first = run("first", train_params(gradient_checkpointing=True, **figure))
    second = run("second", train_params(start="adapter", **figure), model=first, base=prepared["model"])
    one, two = (load_file(out / "adapter" / "adapter_model.safetensors") for out in (first, second))
    assert one.keys() == two.keys()
    assert any("multi_modal_projector.linear_1.weight" in name for name in one)
    assert not [name for name in one if "multi_modal_projector" in name and "lora" in name]
    moved = max(float((two[name] - one[name]).abs().max()) for name in one)
    fresh = max(float(two[name].abs().max()) for name in one if "lora_B" in name)
    assert 0 < moved < 0.1
    assert fresh > 0
    base, merged = load_file(prepared["model"] / "model" / "model.safetensors"), weights_of(second)
    name = "multi_modal_projector.linear_1.weight"
    whole = next(tensor for key, tensor in two.items() if key.endswith(name))
    assert torch.equal(merged[name], whole)
    assert not torch.equal(merged[name], base[name])
    assert set(json.loads((second / "rows.json").read_text("utf-8"))["trained"].values()) == {2}
    assert read_manifest(second)["inputs"]["base"] == read_manifest(prepared["model"])["outputs"]["digest"]

    with pytest.raises(UserError, match="the adapter has lora_rank 4"):
        run("third", train_params(start="adapter", lora_rank=8, **figure), model=first, base=prepared["model"])
    with pytest.raises(UserError, match="was not trained on"):
        run("third", train_params(start="adapter", **figure), model=first, base=second)
    with pytest.raises(UserError, match="set start: merged"):
        run("third", train_params(start="adapter", **figure), base=prepared["model"])


def test_a_row_longer_than_max_length_is_named_before_training(run: Callable[..., Path]) -> None:
    with pytest.raises(RowErrors, match="mer/meld/test"):
        run("out", train_params(max_length=60))


def test_rows_whose_clip_is_not_among_the_frames_are_named_before_training(
    run: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_training(tmp_path / "other", lambda rows: rows[4].update(videos=["clip:meld/test/absent"]))
    with pytest.raises(UserError, match="meld/test/absent"):
        run("out", amt=other["amt"])


def test_a_corrupt_frame_stops_training_and_nothing_is_published(run: Callable[..., Path], tmp_path: Path) -> None:
    from emoverse.artifacts.manifest import publish

    prepared = make_training(tmp_path / "other")
    shard = next((prepared["meld"] / "frames").glob("*.tar"))
    blob = bytearray(shard.read_bytes())
    for frame in pq.read_table(prepared["meld"] / "frames/index.parquet").to_pylist():
        blob[frame["offset"] + frame["length"] // 2] ^= 1
    with publish(tmp_path / "spoiled", step="validate", name="meld", params={}, inputs={}) as draft:
        (draft.path / "frames").mkdir()
        (draft.path / "frames" / "index.parquet").write_bytes((prepared["meld"] / "frames/index.parquet").read_bytes())
        (draft.path / "frames" / shard.name).write_bytes(blob)
    with pytest.raises(UserError, match="is not what was written"):
        run("out", meld=tmp_path / "spoiled")
    assert not (tmp_path / "out").exists()
