"""The images: small, without privileges, without secrets; and the pipeline run in them gives what `dvc repro` gives.

`make test-containers` starts an engine and builds the images first; `make test` leaves these tests out.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components import DATA, TRAIN
from tests.factories.checkout import REPO, Checkout

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("EMOVERSE_CONTAINERS" not in os.environ, reason="needs an engine: `make test-containers`"),
]
IMAGES = (DATA, TRAIN)
OUTPUTS = ("validated/meld", "validated/ecf", "validated/mosei", "amt", "base", "stage1", "stage2", "scores", "onnx")


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def inspected(image: str) -> dict[str, Any]:
    return dict(json.loads(docker("image", "inspect", image))[0])


def digest(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text("utf-8"))["outputs"]["digest"])


def test_the_data_image_is_below_900_megabytes_and_has_no_torch() -> None:
    assert inspected(DATA)["Size"] < 900e6
    found = docker(
        "run", "--rm", DATA, "python", "-c", "from importlib.util import find_spec; print(find_spec('torch'))"
    )
    assert found.strip() == "None"


def test_the_train_image_has_the_libraries_of_the_data_image_as_its_own_first_layers() -> None:
    data, train = (inspected(image)["RootFS"]["Layers"] for image in IMAGES)
    shared = next(n for n, (a, b) in enumerate(zip(data, train, strict=False)) if a != b)
    assert shared >= 2  # base and libraries: what differs after them is the package


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_says_what_it_was_built_from_and_runs_without_privileges(image: str) -> None:
    found = inspected(image)["Config"]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    assert found["Labels"]["org.opencontainers.image.revision"].startswith(commit.strip())
    assert docker("run", "--rm", image, "id", "-u").strip() == "10001"
    assert "emoverse" in docker("run", "--rm", image, "emoverse", "--version")


@pytest.mark.parametrize("image", IMAGES)
def test_no_secret_of_the_builders_environment_is_in_an_image(image: str) -> None:
    assert "canary" not in docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert "canary" not in json.dumps(inspected(image))


def test_no_layer_of_the_data_image_holds_the_builders_secret() -> None:
    saved = subprocess.Popen(["docker", "save", DATA], stdout=subprocess.PIPE)
    found = subprocess.run(
        ["grep", "--text", "--count", "canary-of-the-build"], stdin=saved.stdout, capture_output=True
    )
    assert saved.wait() == 0
    assert found.stdout.strip() == b"0"


def test_the_pipeline_in_its_images_gives_the_digests_of_dvc_repro_and_then_only_cache_hits(repro: Checkout) -> None:
    first = json.loads(repro.run("emoverse", "run-local", "--docker", "--json"))
    assert first["ran"] == [*(f"data/{name}" for name in OUTPUTS), "reports"]
    assert first["digests"] == {name: digest(repro.root / "data" / name) for name in OUTPUTS}
    assert first["report"] == digest(repro.root / "reports")
    assert json.loads(repro.run("emoverse", "run-local", "--docker", "--json"))["ran"] == []


def test_an_artifact_of_a_container_names_its_image_by_digest_and_the_commit(repro: Checkout) -> None:
    repro.run("emoverse", "run-local", "--docker", "--json")
    entries = [json.loads(p.read_text("utf-8")) for p in (repro.root / "scratch/kubeflow/cache").glob("*.json")]
    known = [one["metadata"] for entry in entries for one in entry.values() if one.get("metadata", {}).get("digest")]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repro.root, capture_output=True, text=True, check=True)
    assert {one["image"] for one in known} == {f"{image}@{inspected(image)['Id']}" for image in IMAGES}
    assert all(one["revision"].startswith(commit.stdout.strip()) for one in known)


def test_an_image_that_is_not_there_is_refused_with_the_remedy(repro: Checkout) -> None:
    done = repro.attempt("emoverse", "run-local", "--docker", "--image-data", "no-such-python:1")
    assert done.returncode == 2
    assert "the engine has no image no-such-python:1; run `make image`" in done.stderr
