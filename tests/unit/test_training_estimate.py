"""What a training would take, against what torch really does with a tiny model: parameters, kept bytes, operations."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from emoverse.cli.__init__ import main
from emoverse.config import load_params
from emoverse.errors import UserError
from emoverse.profiles import names, profile_text
from emoverse.training.estimate import (
    Row,
    Shapes,
    activations,
    check_device,
    count,
    flops,
    memory,
    plan,
    read_shapes,
    steps_of,
    trainable,
)
from tests.conftest import REPO
from tests.factories.answering import make_model
from tests.factories.training import make_converted, make_training, train_params

LINEAR = r".*language_model.*_proj|.*multi_modal_projector\.linear_[12]"
BATCH = [Row(tokens=160, answer=10, frames=4)] * 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "base") / "model"


@pytest.fixture(scope="module")
def shapes(folder: Path) -> Shapes:
    return read_shapes(folder)


def adapted(folder: Path, dropout: float = 0.0, attention: str = "sdpa") -> Any:
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation=attention)
    model = get_peft_model(model, LoraConfig(r=4, lora_dropout=dropout, target_modules=LINEAR))
    return model.train()


def loss_of(model: Any, shapes: Shapes) -> Any:
    """Run the model forward on BATCH, as the trainer does: logits of the answers alone."""
    length, answer, frames = BATCH[0].tokens, BATCH[0].answer, BATCH[0].frames
    ids = torch.full((len(BATCH), length), 7)
    ids[:, 5 : 5 + frames * shapes.tokens_per_frame] = model.config.image_token_id
    pixels = torch.zeros(len(BATCH) * frames, 3, *model.config.vision_config.image_size)
    return model(
        input_ids=ids, pixel_values=pixels, labels=ids[:, -answer:], logits_to_keep=answer, use_cache=False
    ).loss


def test_parameters_are_those_of_the_model(folder: Path, shapes: Shapes) -> None:
    model = adapted(folder)
    trained = sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
    whole = sum(tensor.numel() for tensor in model.parameters())
    assert count(shapes.tensors.values()) == whole - trained
    assert trainable(shapes, train_params()) == trained
    assert trainable(shapes, train_params(lora_rank=8)) == 2 * trained
    assert trainable(shapes, train_params(tuner="full", train_vision=True)) == whole - trained
    assert trainable(shapes, train_params(projector="frozen")) < trained


def test_of_experts_the_chosen_ones_count_and_none_gets_an_adapter(tmp_path: Path) -> None:
    folder = make_converted(tmp_path, "qwen3_moe") / "model"
    shapes, model = read_shapes(folder), adapted(folder, attention="eager")
    trained = sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
    assert trainable(shapes, train_params()) == trained
    with FlopCounterMode(display=False) as counter:
        loss_of(model, shapes).backward()
    assert 0.8 < flops(shapes, train_params(), BATCH) / counter.get_total_flops() < 1.25


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_activations_are_what_torch_keeps_for_the_backward_pass(folder: Path, shapes: Shapes, dropout: float) -> None:
    model, kept = adapted(folder, dropout), {}
    own = {tensor.data_ptr() for tensor in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in own:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss_of(model, shapes)
        expected = activations(shapes, train_params(lora_dropout=dropout), BATCH, checkpointing=False)
        assert 0.75 < expected / sum(kept.values()) < 1.35


def test_operations_are_what_torch_counts(folder: Path, shapes: Shapes) -> None:
    model = adapted(folder, attention="eager")  # torch does not count the fused kernel; this one computes both halves
    with FlopCounterMode(display=False) as counter:
        loss_of(model, shapes).backward()
    assert 0.8 < flops(shapes, train_params(), BATCH) / counter.get_total_flops() < 1.25


def test_checkpointing_and_smaller_batches_save_memory_and_full_training_costs_it(shapes: Shapes) -> None:
    def total(checkpointing: bool = False, **changes: Any) -> int:
        return memory(shapes, train_params(**changes), BATCH, checkpointing=checkpointing)["total"]

    assert total(checkpointing=True) < total()
    assert total(batch_size=1) < total(batch_size=8)
    found = memory(shapes, train_params(tuner="full"), BATCH, checkpointing=False)
    assert (
        found["optimizer"]
        == 2 * found["gradients"]
        > 2 * memory(shapes, train_params(), BATCH, checkpointing=False)["gradients"]
    )
    assert found["total"] == sum(value for name, value in found.items() if name != "total")


def test_several_gpus_divide_what_sharding_says(shapes: Shapes) -> None:
    def found(**changes: Any) -> dict[str, int]:
        return memory(shapes, train_params(dtype="bfloat16", **changes), BATCH, checkpointing=False)

    alone, trained = found(gpus=4), trainable(shapes, train_params())
    two, three = (found(gpus=4, sharding=f"zero{stage}") for stage in (2, 3))
    # a quarter of 2 bytes a gradient, and of 12 bytes: two moments and the weight itself in 32 bits
    assert two["gradients"] == three["gradients"] == pytest.approx(trained * 2 / 4, abs=1)
    assert two["optimizer"] == three["optimizer"] == pytest.approx(trained * 12 / 4, abs=1)
    assert two["weights"] == (count(shapes.tensors.values()) + trained) * 2
    assert three["weights"] == pytest.approx(two["weights"] / 4, abs=1)
    assert two["activations"] == three["activations"] == alone["activations"]
    assert found(gpus=8, sharding="zero3")["total"] < three["total"]


def test_steps_are_counted_as_the_trainer_counts_them() -> None:
    assert steps_of(12, train_params(batch_size=4, epochs=3.0)) == 9
    assert steps_of(13, train_params(batch_size=4, accumulation=2, epochs=2.0)) == 4
    assert steps_of(12, train_params(batch_size=4, epochs=0.6)) == 2


def test_the_values_of_weights_do_not_matter(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(whole[:header])
    os.truncate(tmp_path / "model.safetensors", len(whole))  # a hole in place of every value
    assert plan(read_shapes(tmp_path), train_params(), BATCH) == plan(read_shapes(folder), train_params(), BATCH)
    (tmp_path / "model.safetensors").write_bytes(whole[: header // 2])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_shapes(tmp_path)


def dry_run(inputs: dict[str, Path], *words: str, params: Path = REPO / "params.yaml") -> int:
    folders = ["--model", inputs["model"], "--amt", inputs["amt"], "--validated", inputs["meld"]]
    return main(["train", "--stage", "stage1", *map(str, folders), "--params", str(params),
                 "--set", "media.frames=2", "--dry-run", *words])  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_training(tmp_path_factory.mktemp("training"))


@pytest.mark.parametrize("profile", names())
def test_a_dry_run_of_each_profile_says_memory_steps_and_time(
    profile: str, inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(profile_text(profile), "utf-8")
    assert dry_run(inputs, "--json", "--tflops", "100", params=path) == 0
    found = json.loads(capsys.readouterr().out)
    params = load_params(path)
    effective = params.stage1.batch_size * params.stage1.accumulation
    assert found["steps"] == steps_of(12, params.stage1) >= params.stage1.epochs * 12 / effective
    assert found["memory"]["total"] > found["parameters"]["all"] * {"float32": 4, "bfloat16": 2}[params.stage1.dtype]
    assert found["seconds"]["at_full_rate"] > 0


def test_a_dry_run_says_what_it_takes_and_names_over_long_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = make_training(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert dry_run(inputs, "--json", "--tflops", "0.5") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 12
    assert found["frames"] == 8 * 2 + 4
    assert found["budget"]["tasks"]["mer"]["rows"] == 12
    assert found["seconds"]["at_full_rate"] == pytest.approx(found["flops"] / 0.5e12)
    assert found["longest_row"] == found["budget"]["tasks"]["mer"]["longest"]
    assert dry_run(inputs) == 0
    assert f"{found['parameters']['all']:,} parameters" in capsys.readouterr().out
    assert dry_run(inputs, "--set", "stage1.max_length=60") == 2
    assert "mer 12 of 12; the first are mer/meld/" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_flash_attention_that_cannot_run_here_is_refused_before_any_work(dtype: str) -> None:
    if find_spec("flash_attn") is not None:
        pytest.skip("flash attention is installed here")
    params = train_params(attention="flash_attention_2", dtype=dtype)
    with pytest.raises(UserError, match=r"the package flash-attn.*train.attention to auto") as caught:
        check_device(params)
    assert ("dtype bfloat16" in str(caught.value)) == (dtype == "float32")
    check_device(train_params(attention="auto", dtype=dtype))


def test_sharding_without_deepspeed_or_a_second_gpu_is_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match="sharding zero2 divides among several GPUs: gpus or nodes is 2 or more"):
        train_params(sharding="zero2")
    if find_spec("deepspeed") is not None:
        pytest.skip("deepspeed is installed here")
    with pytest.raises(UserError, match=r"zero3, which needs the package deepspeed; install it .*train.sharding to no"):
        check_device(train_params(sharding="zero3", gpus=2))
