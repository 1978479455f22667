"""What the verbs share: which outputs of validate a step reads."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from emoverse.artifacts.manifest import publish
from emoverse.cli.options import validated_folders
from emoverse.config import CorpusParams, Params, load_params

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def params() -> Params:
    """Return parameters that name two corpora."""
    corpora = {name: CorpusParams(root=name.upper()) for name in ("meld", "ecf")}
    return replace(load_params(REPO / "params.yaml"), corpora=corpora)


@pytest.fixture
def validated(tmp_path: Path) -> Path:
    """Publish three corpora, of which one has been taken out of the parameters since."""
    for name in ("meld", "ecf", "mosei"):
        with publish(tmp_path / name, step="validate", name=name, params={}, inputs={}) as draft:
            (draft.path / "a").write_text(name, "utf-8")
    return tmp_path


def test_a_folder_of_outputs_stands_for_the_corpora_of_the_parameters(validated: Path, params: Params) -> None:
    found = validated_folders(argparse.Namespace(validated=[validated]), params)
    assert found == [validated / "meld", validated / "ecf"]


def test_an_output_stands_for_itself_whatever_the_parameters_say(validated: Path, params: Params) -> None:
    found = validated_folders(argparse.Namespace(validated=[validated / "mosei"]), params)
    assert found == [validated / "mosei"]


def test_the_notes_that_a_shell_s_star_gives_are_passed_over(validated: Path, params: Params) -> None:
    (validated / "meld.run.json").write_text("{}", "utf-8")
    found = validated_folders(argparse.Namespace(validated=sorted(validated.glob("m*"))), params)
    assert found == [validated / "meld", validated / "mosei"]


def test_a_folder_that_is_not_there_is_left_for_the_step_to_name(tmp_path: Path, params: Params) -> None:
    assert validated_folders(argparse.Namespace(validated=[tmp_path / "x"]), params) == [tmp_path / "x"]
