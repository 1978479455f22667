"""Profiles: complete parameter files, chosen by one word."""

from pathlib import Path

import pytest

from emoverse.cli.__init__ import main
from emoverse.cli.training import FOLDER, names
from emoverse.config import TINY, load_params

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", names())
def test_a_profile_is_a_complete_valid_parameter_file(name: str) -> None:
    params = load_params(FOLDER / f"{name}.yaml")
    assert set(params.amt.stage1.corpora) | set(params.amt.stage2.corpora) <= set(params.corpora)


def test_the_sample_is_the_parameter_file_of_the_repository() -> None:
    assert (FOLDER / "sample.yaml").read_text("utf-8") == (REPO / "params.yaml").read_text("utf-8")
    assert load_params(FOLDER / "sample.yaml").base_model.source == TINY


@pytest.mark.parametrize("name", ["internvl2-4b", "internvl2-8b"])
def test_the_authors_settings_are_those_of_their_scripts(name: str) -> None:
    params = load_params(FOLDER / f"{name}.yaml")
    assert params.base_model.source.lower().endswith(name)
    assert params.amt.system == "You are an sentiment and emotion analysis expert."
    media = params.media
    assert (media.frames, media.size, media.crop, media.colour) == (8, 448, "squash", "rgb")
    for stage in (params.stage1, params.stage2):
        assert (stage.tuner, stage.lora_rank, stage.lora_alpha, stage.lora_dropout) == ("lora", 8, 32, 0.05)
        assert (stage.learning_rate, stage.warmup, stage.weight_decay, stage.epochs) == (1e-4, 0.05, 0.1, 2.0)
        assert (stage.batch_size, stage.accumulation, stage.gradient_checkpointing) == (1, 8, True)
        assert (stage.train_vision, stage.projector, stage.seed) == (False, "lora", 42)
        # the scripts' 2048 would delete every clip: eight frames of 256 tokens fill it before the first word
        assert stage.max_length > media.frames * 256 + 1024
    assert params.stage2.start == "merged"


def test_fast_reaches_the_same_effective_batch_in_bigger_steps_without_computing_twice() -> None:
    slow, fast = (load_params(FOLDER / f"{name}.yaml") for name in ("internvl2-4b", "fast"))
    for one, two in ((slow.stage1, fast.stage1), (slow.stage2, fast.stage2)):
        assert one.batch_size * one.accumulation * one.gpus == two.batch_size * two.accumulation * two.gpus
        assert two.batch_size > one.batch_size
        assert (two.dtype, two.attention, two.group_by_length) == ("bfloat16", "auto", True)
        assert not two.gradient_checkpointing
        same = ("learning_rate", "epochs", "lora_rank", "lora_alpha", "lora_dropout", "projector", "warmup")
        assert [getattr(one, key) for key in same] == [getattr(two, key) for key in same]
    assert slow.amt == fast.amt


def test_a_profile_replaces_another_and_says_what_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["profile", "sample"]) == 0
    assert main(["profile", "internvl2-4b"]) == 0
    assert load_params().base_model.source == "data/raw/InternVL2-4B"
    told = capsys.readouterr().out
    assert "missing: data/raw/MELD" in told
    assert "hf download OpenGVLab/InternVL2-4B --local-dir data/raw/InternVL2-4B" in told


def test_parameters_of_ones_own_are_not_overwritten_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["profile", "sample"]) == 0
    own = Path("params.yaml").read_text("utf-8").replace("epochs: 12", "epochs: 13")
    Path("params.yaml").write_text(own, "utf-8")
    assert main(["profile", "fast"]) == 2
    assert Path("params.yaml").read_text("utf-8") == own
    assert "--force" in capsys.readouterr().err
    assert main(["profile", "fast", "--force"]) == 0
    assert load_params().stage1.batch_size == 2


def test_a_misspelt_profile_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "internvl2-4"]) == 2
    assert "did you mean 'internvl2-4b'" in capsys.readouterr().err
