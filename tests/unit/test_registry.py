"""Everything that describes a step elsewhere is held to the registry."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import DATA, TRAIN
from emoverse.cli import COMMANDS
from emoverse.config import Params
from emoverse.registry import STEPS, Step

REPO = Path(__file__).resolve().parents[2]
IMAGES = {"data": DATA, "train": TRAIN}


def dvc_stages() -> dict[str, dict[str, Any]]:
    stages = yaml.safe_load((REPO / "dvc.yaml").read_text("utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


@pytest.mark.parametrize("step", STEPS.values(), ids=str)
def test_the_function_of_a_step_exists(step: Step) -> None:
    module, _, name = step.function.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("name", STEPS)
def test_every_step_is_a_command(name: str) -> None:
    assert name in COMMANDS


def test_dvc_yaml_has_the_stages_of_the_registry_and_no_others() -> None:
    declared = [stage for step in STEPS.values() for stage in step.stages]
    assert sorted(dvc_stages()) == sorted([*declared, "fingerprints"])


@pytest.mark.parametrize("step", [step for step in STEPS.values() if step.stages], ids=str)
def test_a_stage_depends_on_its_sections_and_its_fingerprint(step: Step) -> None:
    for name in step.stages:
        stage = dvc_stages()[name]
        assert f"emoverse {step.name} " in stage["cmd"]
        sections = [entry for entry in stage.get("params", []) if isinstance(entry, str)]
        others = {stage for stage in step.stages if stage != name}
        assert sections == [section for section in step.sections if section not in others]
        assert {"data/fingerprints.json": [step.name]} in stage["params"]


@pytest.mark.parametrize("step", STEPS.values(), ids=str)
def test_the_component_runs_in_the_image_of_the_registry(step: Step) -> None:
    module = importlib.import_module(f"components.{step.name.replace('-', '_')}")
    component = getattr(module, step.name.replace("-", "_"))
    assert component.component_spec.implementation.container.image == IMAGES[step.image]


@pytest.mark.parametrize("step", STEPS.values(), ids=str)
def test_every_section_of_a_step_is_a_section_of_params_yaml(step: Step) -> None:
    known = {*inspect.signature(Params).parameters, "train"}
    assert set(step.sections) <= known


@pytest.mark.parametrize("step", STEPS.values(), ids=str)
def test_the_libraries_of_a_step_are_in_the_lock_file_of_its_image(step: Step) -> None:
    lock = (REPO / f"requirements/{step.image}.txt").read_text("utf-8")
    locked = {name.lower().replace("_", "-") for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    assert {name.lower().replace("_", "-") for name in step.libraries} <= locked


def test_the_documentation_lists_every_step() -> None:
    text = (REPO / "docs/architecture.md").read_text("utf-8")
    missing = [step.function for step in STEPS.values() if f"`{step.function}`" not in text]
    assert missing == []


def test_the_documentation_lists_every_package_and_module() -> None:
    text = (REPO / "docs/architecture.md").read_text("utf-8")
    packages = [f"{path.parent.name}/" for path in (REPO / "emoverse").glob("*/__init__.py")]
    modules = [path.name for path in (REPO / "emoverse").glob("*.py") if path.name != "__init__.py"]
    assert [name for name in (*packages, *modules) if f"`{name}`" not in text] == []
