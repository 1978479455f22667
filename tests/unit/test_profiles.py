"""Profiles: complete parameter files, chosen by one word."""

from collections.abc import Callable
from pathlib import Path

import pytest

from emoverse.cli.__init__ import main
from emoverse.config import Params, load_params
from emoverse.profiles import TASKS_OF, names, narrowing_notes, profile_text
from emoverse.tasks import tasks

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Params]:
    def load(name: str, *corpora: str) -> Params:
        path = tmp_path / "params.yaml"
        path.write_text(profile_text(name, corpora), "utf-8")
        return load_params(path)

    return load


@pytest.mark.parametrize("name", names())
def test_a_profile_is_a_complete_valid_parameter_file(name: str, read: Callable[..., Params]) -> None:
    params = read(name)
    assert set(params.amt.stage1.corpora) | set(params.amt.stage2.corpora) <= set(params.corpora)


def test_the_sample_is_the_parameter_file_of_the_repository(read: Callable[..., Params]) -> None:
    assert profile_text("sample") == (REPO / "params.yaml").read_text("utf-8")
    assert read("sample").base_model.source == "data/raw/sample/InternVL-tiny"


@pytest.mark.parametrize("name", sorted(set(names()) - {"sample", "fast"}))
def test_the_authors_settings_are_those_of_their_scripts(name: str, read: Callable[..., Params]) -> None:
    params = read(name)
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


def test_fast_reaches_the_same_effective_batch_in_bigger_steps_without_computing_twice(
    read: Callable[..., Params],
) -> None:
    slow, fast = read("internvl2-4b"), read("fast")
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
    printed = capsys.readouterr().out
    assert "missing: data/raw/MELD" in printed
    assert "hf download OpenGVLab/InternVL2-4B --local-dir data/raw/InternVL2-4B" in printed


def test_parameters_of_ones_own_are_not_overwritten_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["profile", "sample"]) == 0
    own = Path("params.yaml").read_text("utf-8").replace("lora_rank: 16", "lora_rank: 17")
    Path("params.yaml").write_text(own, "utf-8")
    assert main(["profile", "fast"]) == 2
    assert Path("params.yaml").read_text("utf-8") == own
    assert "--force" in capsys.readouterr().err
    assert main(["profile", "fast", "--force"]) == 0
    assert load_params().stage1.batch_size == 2


def test_a_misspelt_profile_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "internvl2-4"]) == 2
    assert "did you mean 'internvl2-4b'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sample", "internvl2-4b", "internvl3_5-4b"])
@pytest.mark.parametrize("corpora", [("meld",), ("ecf",), ("mosei",), ("meld", "ecf"), ("ecf", "mosei")])
def test_a_profile_for_some_corpora_asks_for_nothing_of_the_others(
    name: str, corpora: tuple[str, ...], read: Callable[..., Params]
) -> None:
    whole, params = read(name), read(name, *corpora)
    assert set(params.corpora) == set(corpora)
    for stage in (params.amt.stage1, params.amt.stage2):
        assert stage.corpora
        assert set(stage.corpora) <= set(corpora)
        assert stage.tasks
        assert all(any(task in TASKS_OF[corpus] for corpus in stage.corpora) for task in stage.tasks)
    for section in ("media", "validation", "base_model", "stage1", "stage2", "evaluate", "export"):
        assert getattr(params, section) == getattr(whole, section)


def test_what_is_left_out_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "internvl2-4b", "--corpora", "meld", "--out", str(tmp_path / "params.yaml")]) == 0
    printed = capsys.readouterr().out
    assert "stage1: without mosei, which was all of it; it draws on meld" in printed
    assert "stage2: without ecpe, for which meld has no labels" in printed
    assert "MOSEI" not in printed  # it is not needed, so it is not missing
    # the same command again, and another choice of corpora, overwrite it: it holds no edits
    assert main(["profile", "internvl2-4b", "--corpora", "ecf", "--out", str(tmp_path / "params.yaml")]) == 0
    assert narrowing_notes("internvl2-4b", ("meld", "ecf", "mosei")) == []


def test_an_unknown_corpus_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "sample", "--corpora", "mled"]) == 2
    assert "did you mean 'meld'" in capsys.readouterr().err


def test_every_task_and_corpus_is_in_the_table_of_labels() -> None:
    assert set(TASKS_OF) == {"meld", "ecf", "mosei"}
    assert {task for listed in TASKS_OF.values() for task in listed} == set(tasks())


def test_a_profile_outside_a_checkout_does_not_miss_the_tiny_models_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["profile", "sample"]) == 0
    assert "tiny.py" not in capsys.readouterr().out
