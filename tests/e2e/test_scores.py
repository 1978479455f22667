"""The sample is learned: the scores of a full run of the main job stay above their floors.

A full run takes minutes, so it is taken from this checkout where `make run` has left one of the present parameters.
`EMOVERSE_FULL_RUN=1` makes one in the shared checkout instead.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from emoverse.tasks import task as task_named
from tests.factories.checkout import REPO, Checkout

pytestmark = pytest.mark.slow

FLOORS = {"mer": 0.72, "msa": 0.78, "fer": 0.70, "eri": 0.73, "ecpe": 0.75, "ecpe_semeval": 0.40}
"""Of the headline scores. Three seeds reached 0.756, 0.810, 0.726, 0.769, 0.802 and 0.457 at least; kinds of CPU that
gave other weights have given equal scores."""
GAPS = {("mer", "text_only"): 0.15, ("mer", "face_only"): 0.10, ("msa", "text_only"): 0.05, ("msa", "face_only"): 0.05}
"""How far a control must stay below the model. Over three seeds it was 0.18 to 0.23, 0.12 to 0.13, 0.07 to 0.10 and
0.06 to 0.15; a hundredth is one row or two of sentiment."""


def is_current(root: Path) -> bool:
    """Return whether a folder holds scores of the parameters in its params.yaml, trained to the end."""
    try:
        scores = json.loads((root / "data/scores/manifest.json").read_text("utf-8"))
        base = json.loads((root / "data/base/manifest.json").read_text("utf-8"))
        stage = json.loads((root / "data/stage2/manifest.json").read_text("utf-8"))
    except FileNotFoundError:
        return False
    wanted = yaml.safe_load((root / "params.yaml").read_text("utf-8"))
    tracked = yaml.safe_load((root / f"{wanted['base_model']['source']}.dvc").read_text("utf-8"))["outs"][0]["md5"]
    same = any(one.get("dvc_md5") == tracked for one in base["ancestry"].values())
    same &= all(stage["params"].get(key) == value for key, value in {**wanted["train"], **wanted["stage2"]}.items())
    return bool(same and scores["inputs"]["model"] == stage["outputs"]["digest"])


@pytest.fixture(scope="module")
def full_run(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return the root of a checkout with a full run of the present parameters."""
    if os.environ.get("EMOVERSE_FULL_RUN"):
        copy: Checkout = request.getfixturevalue("repro")
        short = (copy.root / "params.yaml").read_text("utf-8")
        (copy.root / "params.yaml").write_text((REPO / "params.yaml").read_text("utf-8"), "utf-8")
        copy.run("dvc", "repro", "--quiet", "export", timeout=3600)
        yield copy.root
        (copy.root / "params.yaml").write_text(short, "utf-8")
        copy.run("dvc", "repro", "--quiet")  # from the cache: later tests find what they expect
        return
    if not is_current(REPO):
        pytest.skip("no full run of these parameters here: `make run` first, or set EMOVERSE_FULL_RUN=1")
    yield REPO


@pytest.fixture(scope="module")
def metrics(full_run: Path) -> dict[str, Any]:
    return dict(json.loads((full_run / "data/scores/metrics.json").read_text("utf-8")))


def headline(metrics: dict[str, Any], task: str) -> float:
    return float(metrics[task][task_named(task).headline])


@pytest.mark.parametrize("task", FLOORS)
def test_a_task_is_learned(metrics: dict[str, Any], task: str) -> None:
    assert headline(metrics, task) >= FLOORS[task]


def test_hardly_a_face_gets_a_reply_that_names_no_unit(metrics: dict[str, Any]) -> None:
    assert metrics["fer"]["unparsable"] <= 0.02 * metrics["fer"]["n"]


def test_reasons_name_the_emotion_nearly_as_often_as_labels_do(metrics: dict[str, Any]) -> None:
    assert headline(metrics, "eri") >= headline(metrics, "mer") - 0.08


def test_no_rule_about_the_place_of_a_line_finds_the_causes(metrics: dict[str, Any]) -> None:
    rules = [test["baseline"] for name, test in metrics["tests"].items() if name.endswith("-ecpe")]
    best = max(value for one in rules for value in one.values())
    assert best <= 0.60
    assert headline(metrics, "ecpe") >= best + 0.10


@pytest.mark.parametrize(("task", "control"), GAPS)
def test_words_alone_and_the_face_alone_fall_short(metrics: dict[str, Any], task: str, control: str) -> None:
    assert metrics[task][control] <= headline(metrics, task) - GAPS[task, control]


def test_the_clip_of_the_readme_is_answered_as_a_reader_expects(full_run: Path) -> None:
    """The words are "We won, can you believe it?", and the face smiles."""
    found = re.search(
        r"^emoverse (predict \S+) --text \"(We won.*?)\"", (REPO / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert found is not None
    words = [sys.executable, "-m", "emoverse.cli", *found[1].split(), "--text", found[2]]
    printed = subprocess.run(words, cwd=full_run, capture_output=True, text=True, check=True).stdout
    titles = {name: task_named(name).title for name in ("mer", "msa")}
    assert f"{titles['mer']}: joy" in printed
    assert f"{titles['msa']}: positive" in printed
