"""An installed package, without a checkout: what lands in site-packages, and commands whose packages are missing."""

import json
import shutil
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from emoverse.cli.__init__ import COMMANDS, EXTRAS

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, because building leaves files in the source folder
    for name in ("emoverse", "components", "pipelines", "requirements"):
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "-w", folder]
    command = [sys.executable, "-m", "pip", "wheel", *options, source]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    (path,) = folder.glob("emoverse-*.whl")
    return path


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ``emoverse`` command of an environment in which nothing else is installed."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    script = folder / "bin/emoverse"
    script.write_text(f"#!{folder}/bin/python\nimport sys\nfrom emoverse.cli import main\nsys.exit(main())\n", "utf-8")
    script.chmod(0o755)
    return script


def run(bare: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [bare, *words], cwd=cwd, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin"}
    )


def test_only_emoverse_lands_in_site_packages_with_its_data_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"emoverse"}
    data = [p for p in (REPO / "emoverse").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert {str(path.relative_to(REPO)) for path in data} <= set(names)


def requirements_of(wheel: Path) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        texts = message_from_bytes(archive.read(name)).get_all("Requires-Dist") or []
    return [Requirement(text) for text in texts]


def test_the_dependencies_are_those_of_the_data_steps_and_each_extra_is_complete(wheel: Path) -> None:
    found = requirements_of(wheel)

    def of(extra: str) -> set[str]:
        return {one.name for one in found if one.marker and one.marker.evaluate({"extra": extra})}

    def lines(name: str) -> dict[str, str]:
        text = (REPO / f"requirements/{name}.in").read_text("utf-8")
        return {one.name: str(one.specifier) for line in text.splitlines()
                if line[:1].isalnum() and (one := Requirement(line.partition("#")[0]))}  # fmt: skip

    assert {one.name: str(one.specifier) for one in found if not one.marker or "extra" not in str(one.marker)} == lines(
        "data"
    )
    assert {one.name: str(one.specifier) for one in found if one.name in lines("train")} == lines("train")
    assert lines("train").keys() <= of("train")
    assert {"gradio", "onnxruntime-gpu"} <= of("demo")
    names = {"swift": "ms-swift", "onnxruntime": "onnxruntime-gpu", "feat": "py-feat"}
    for package, extra in EXTRAS.items():
        assert not extra or names.get(package, package) in of(extra)


def test_decord_which_has_no_wheel_for_arm_is_not_needed_there(wheel: Path) -> None:
    (decord,) = (requirement for requirement in requirements_of(wheel) if requirement.name == "decord")
    assert decord.marker is not None
    assert decord.marker.evaluate({"platform_machine": "x86_64"})
    assert not decord.marker.evaluate({"platform_machine": "aarch64"})


def test_help_works_with_nothing_installed(bare: Path, tmp_path: Path) -> None:
    done = run(bare, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


def test_doctor_runs_with_nothing_installed_and_says_what_to_do(bare: Path, tmp_path: Path) -> None:
    done = run(bare, "doctor", "--json", "--host", "http://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    found = {one["check"]: one for one in json.loads(done.stdout)}
    assert found["python"]["ok"]
    assert all(one["ok"] or one["remedy"] for one in found.values())
    assert {"pyav", "data", "kubeflow"} <= {name for name, one in found.items() if one["state"] == "fail"}
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"doctor"}))
def test_every_command_says_in_one_line_what_is_missing(bare: Path, command: str, tmp_path: Path) -> None:
    done = run(bare, command, "--help", cwd=tmp_path)
    if done.returncode == 0:
        return
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "is not installed; run `make setup` in a checkout, or `pip install" in done.stderr


def test_profile_works_outside_a_checkout(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "emoverse.cli", "profile", "internvl2-4b"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "params.yaml").is_file()
    assert "missing: data/raw/MELD" in done.stdout


def test_the_sample_s_profile_asks_for_no_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "emoverse.cli", "profile", "sample"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "hf download" not in done.stdout
