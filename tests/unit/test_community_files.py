"""The files beside the code: citation, security, templates, dev container."""

import json
import re
from pathlib import Path

import pytest
import yaml

from emoverse import __version__

REPO = Path(__file__).resolve().parents[2]
PAPER = "2412.08049"


def test_the_citation_names_this_version_the_license_and_the_paper() -> None:
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] in (REPO / "pyproject.toml").read_text("utf-8")
    assert any(PAPER in str(reference) for reference in citation["references"])


@pytest.mark.parametrize("name", ["README.md", "docs/status.md"])
def test_a_page_that_names_a_version_names_this_one(name: str) -> None:
    named = re.findall(r"\b[Vv]ersion (\d+\.\d+\.\d+)", (REPO / name).read_text("utf-8"))
    assert named
    assert set(named) == {__version__}


def test_the_readme_counts_the_clips_of_the_sample_and_names_the_floors_of_its_scores() -> None:
    readme = (REPO / "README.md").read_text("utf-8")
    (clips,) = re.findall(r"(\d+) clips of drawn", (REPO / "data/raw/sample/README.md").read_text("utf-8"))
    assert f"{int(clips):,} drawn clips" in readme
    (line,) = re.findall(r"^FLOORS = (\{.*\})$", (REPO / "tests/e2e/test_scores.py").read_text("utf-8"), re.MULTILINE)
    floors = json.loads(line)
    words = {"mer": "emotion", "msa": "sentiment", "fer": "facial expression", "eri": "reason", "ecpe": "cause pairs"}
    for task, word in words.items():
        assert re.search(rf"{word}\s{floors[task]:.2f}", readme), task


def test_the_changelog_can_be_released() -> None:
    headings = re.findall(r"^## (.*)$", (REPO / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", heading) for heading in headings[1:])


def test_every_test_that_the_security_page_names_exists() -> None:
    named = re.findall(r"`(tests/\S+\.py)`", (REPO / "SECURITY.md").read_text("utf-8"))
    assert len(named) >= 6
    assert [name for name in named if not (REPO / name).is_file()] == []


@pytest.mark.parametrize("path", sorted((REPO / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_an_issue_template_has_what_its_host_requires(path: Path) -> None:
    form = yaml.safe_load(path.read_text("utf-8"))
    if path.stem == "config":
        assert set(form) <= {"blank_issues_enabled", "contact_links"}
        return
    assert {"name", "description", "body"} <= set(form)
    names = [field["id"] for field in form["body"]]
    assert len(names) == len(set(names))
    assert all(field["attributes"]["label"] for field in form["body"])


def test_the_dev_container_runs_make_setup_with_the_python_that_the_makefile_asks_for() -> None:
    container = json.loads((REPO / ".devcontainer/devcontainer.json").read_text("utf-8"))
    makefile = (REPO / "Makefile").read_text("utf-8")
    command, target = container["postCreateCommand"].split()
    assert command == "make"
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    (version,) = re.findall(r"^PYTHON \?= python([\d.]+)$", makefile, re.MULTILINE)
    assert f"FROM python:{version}-" in (REPO / ".devcontainer/Dockerfile").read_text("utf-8")
