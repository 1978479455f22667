"""params.yaml is read strictly: every mistake is named with its dotted key, and nothing is guessed."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from emoverse.cli.options import parse_overrides
from emoverse.config import MediaParams, Params, load_params, parse, plain, read_yaml
from emoverse.errors import UserError

REPO = Path(__file__).resolve().parents[2]
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write params.yaml with the repository's text changed by the test."""

    def _write(text: str) -> Path:
        path = tmp_path / "params.yaml"
        path.write_text(text, "utf-8")
        return path

    return _write


@pytest.fixture
def text() -> str:
    return (REPO / "params.yaml").read_text("utf-8")


def test_the_parameters_in_the_repository_are_valid() -> None:
    params = load_params(REPO / "params.yaml")
    assert isinstance(params, Params)
    assert set(params.corpora) == {"meld", "ecf", "mosei"}


def test_sections_survive_the_round_trip_through_plain_values(text: str) -> None:
    params = load_params(REPO / "params.yaml")
    assert parse(MediaParams, plain(params.media), place="media") == params.media
    assert parse(Params, plain(params), place="all") == params


def test_an_override_changes_its_own_key_alone() -> None:
    one = plain(load_params(REPO / "params.yaml"))
    two = plain(load_params(REPO / "params.yaml", {"stage1.epochs": 0.5}))
    assert two["stage1"].pop("epochs") == 0.5
    one["stage1"].pop("epochs")
    assert one == two


def test_an_override_of_one_stage_leaves_its_yaml_alias_alone(write: Write, text: str) -> None:
    tree = yaml.safe_load(text)
    tree["stage2"] = tree["stage1"]  # yaml.dump writes the second as an alias of the first
    dumped = yaml.dump(tree)
    assert "*id001" in dumped
    params = load_params(write(dumped), {"stage1.seed": 99})
    assert (params.stage1.seed, params.stage2.seed) == (99, 42)


@pytest.mark.parametrize(
    ("key", "value", "printed"),
    [
        ("stage1.epoch", 3, "unknown parameter 'stage1.epoch', did you mean 'epochs'?"),
        ("stage3.epochs", 3, "unknown parameter 'stage3.epochs'"),
        ("media.frames", 0, "'media.frames'"),
        ("media.frames", "eight", "'media.frames'"),
        ("media.frames", True, "'media.frames'"),
        ("amt.modality_dropout", 1.5, "'amt.modality_dropout'"),
        ("stage1.tuner", "qlora", "'stage1.tuner'"),
        ("corpora.meld", {"folder": "x"}, "'corpora.meld.folder'"),
        ("stage1.learning_rate", float("nan"), "'stage1.learning_rate'"),
    ],
)
def test_a_bad_value_is_refused_with_its_dotted_name(key: str, value: object, printed: str) -> None:
    with pytest.raises(UserError) as caught:
        load_params(REPO / "params.yaml", {key: value})
    assert printed in str(caught.value)
    assert "params.yaml" in str(caught.value)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        load_params(REPO / "params.yaml", {"media.frames": 0, "stage1.epoch": 3})
    assert "'media.frames'" in str(caught.value)
    assert "'stage1.epoch'" in str(caught.value)


def test_a_missing_parameter_is_named(write: Write, text: str) -> None:
    tree = yaml.safe_load(text)
    del tree["export"]["tolerance"]
    with pytest.raises(UserError, match=r"parameter 'export\.tolerance' is missing"):
        load_params(write(yaml.safe_dump(tree)))


def test_numbers_in_scientific_notation_are_numbers_as_they_are_for_dvc(write: Write, text: str) -> None:
    assert read_yaml("a: 1e-3\nb: -2E5\nc: e5") == {"a": 0.001, "b": -200000.0, "c": "e5"}
    assert parse_overrides(["stage1.learning_rate=1e-4"]) == {"stage1.learning_rate": 0.0001}


def test_an_override_keeps_everything_after_the_first_equals_sign() -> None:
    assert parse_overrides(["amt.system=a=b"]) == {"amt.system": "a=b"}


@pytest.mark.parametrize("word", ["epochs=1", "stage1.epochs", "stage1.epochs=[1"])
def test_an_override_in_another_form_is_refused_with_an_example(word: str) -> None:
    with pytest.raises(UserError, match="for example"):
        parse_overrides([word])


def test_what_both_stages_share_is_said_once_and_a_stage_has_the_last_word(write: Write, text: str) -> None:
    params = load_params(write(text), {"train.lora_rank": 5, "train.seed": 6, "stage2.seed": 7})
    assert (params.stage1.lora_rank, params.stage2.lora_rank) == (5, 5)
    assert (params.stage1.seed, params.stage2.seed) == (6, 7)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.epohcs", 1, "unknown parameter 'train.epohcs', did you mean 'epochs'"),
        ("train.dtype", "bf16", "parameter 'train.dtype'"),
        ("stage2.sead", 1, "unknown parameter 'stage2.sead', did you mean 'seed'"),
        ("train.sharding", "zero3", "section 'stage1': sharding zero3 divides among several GPUs"),
    ],
)
def test_a_mistake_in_what_the_stages_share_is_named_where_it_stands(
    write: Write, text: str, key: str, value: object, words: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_params(write(text), {key: value})
    assert words in str(caught.value)
    assert "train.train" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"media.timeout": float("inf")}, "'media.timeout': Input should be a finite number"),
        ({"media.timeout": 1e9}, "'media.timeout': Input should be less than or equal to 86400"),
        ({"stage1.learning_rate": float("nan")}, "'stage1.learning_rate': Input should be a finite number"),
        ({"validation.min_duration": 99.0}, "min_duration is 99, above max_duration, which is 60"),
        ({"validation.max_side": 1}, "min_side is 16, above max_side, which is 1"),
    ],
)
def test_a_number_that_nothing_can_keep_to_is_refused_where_it_was_given(overrides: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        load_params(REPO / "params.yaml", overrides)
    assert f"params.yaml with --set {next(iter(overrides))}: " in str(caught.value)


@pytest.mark.parametrize("key", ["epochs", "start"])
def test_a_shared_value_on_the_command_line_is_refused_where_a_stage_sets_its_own(
    write: Write, text: str, key: str
) -> None:
    path = write(text)
    value: object = {"epochs": 99, "start": "adapter"}[key]
    with pytest.raises(UserError, match=rf"train\.{key} has no effect: .*set stage"):
        load_params(path, {f"train.{key}": value})
    own = {f"stage1.{key}": value, f"stage2.{key}": value, "train.tuner": "lora"}
    params = load_params(path, {f"train.{key}": value, **own})  # nothing is hidden when the stages are set, too
    assert getattr(params.stage2, key) == value
