"""Every profile of a real model runs from raw videos to the report, each step with the libraries of its own image."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from emoverse.artifacts.manifest import open_source
from emoverse.config import load_params
from emoverse.profiles import names
from emoverse.registry import STEPS
from emoverse.synthetic.corpora import generate
from tests.conftest import REPO
from tests.factories.checkout import Checkout, checkout
from tests.factories.internvl2 import config, write_checkpoint

pytestmark = pytest.mark.slow
# The text model of each published base; a tiny checkpoint with the same text model stands in for it.
TEXT_MODELS = {
    "InternVL2-4B": "phi3",
    "InternVL2-8B": "internlm2",
    "InternVL2_5-4B": "qwen2",
    "InternVL2_5-8B": "internlm2",
    "InternVL3-2B": "qwen2",
    "InternVL3-8B": "qwen2",
    "InternVL3_5-4B": "qwen3",
    "InternVL3_5-8B": "qwen3",
}
# What differs from the profile: planted faults are many among so few clips; a model with random weights ends no reply
# and finds all answers about equally likely, so that half precision changes some.
ANY = {"top1": 0.0, "greedy": 0.0, "answers": 0.0}
CHANGES = {
    "validation": {"max_quarantined": 0.3},
    "stage1": {"epochs": 0.5},
    "stage2": {"epochs": 0.17},  # two steps
    "evaluate": {"bootstrap": 50, "agreement": 4, "max_new_tokens": 6},
    "export": {"compared": 2, "tolerance": {"fp16": {"absolute": 9.0, "relative": 9.0, "score": 1.0, **ANY}}},
}
# The bases of the paper. EMOVERSE_ALL_PROFILES=1 runs all; functional/test_train_families.py has every text model.
USUAL = ("internvl2-4b", "internvl2-8b")
PROFILES = [name for name in names() if name != "sample" and (name in USUAL or "EMOVERSE_ALL_PROFILES" in os.environ)]
# Hides, from a step's process and its workers, each distribution that is not in the lock file of the step's image.
SITECUSTOMIZE = """
import importlib.metadata, os, re, sys
STEPS, ALLOWED = {steps!r}, {allowed!r}
if len(sys.orig_argv) > 2 and sys.orig_argv[1].endswith("/emoverse") and sys.orig_argv[2] in STEPS:
    os.environ["IMAGE_UNDER_TEST"] = STEPS[sys.orig_argv[2]]
    with open({log!r}, "a") as log:
        print(sys.orig_argv[2], STEPS[sys.orig_argv[2]], file=log)
if image := os.environ.get("IMAGE_UNDER_TEST"):
    owners = importlib.metadata.packages_distributions()
    class WithoutOthers:
        def __init__(self, finder):
            self.finder = finder
        def __getattr__(self, name):
            return getattr(self.finder, name)
        def find_spec(self, name, path=None, target=None):
            found = [re.sub(r"[-_.]+", "-", owner).lower() for owner in owners.get(name.partition(".")[0], [])]
            absent = found and not set(found) & ALLOWED[image]
            return None if absent else self.finder.find_spec(name, path, target)
    sys.meta_path[:] = [WithoutOthers(finder) for finder in sys.meta_path]
"""


def block_libraries(site: Path, log: Path) -> None:
    """Write a sitecustomize.py that gives each step the libraries of its image, and logs step and image."""
    allowed = {}
    for image in ("data", "train"):
        text = (REPO / f"requirements/{image}.txt").read_text("utf-8")
        pinned = re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)
        allowed[image] = {re.sub(r"[-_.]+", "-", name).lower() for name in pinned} | {"emoverse", "setuptools", "pip"}
    steps = {step.name: step.image for step in STEPS.values()}
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE.format(steps=steps, allowed=allowed, log=str(log)))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with small raw corpora and what all profiles share: blocked libraries, their log, DVC's cache.

    The media settings of all profiles are equal, so the first one's frames and rows come from the cache for the others.
    """
    root = tmp_path_factory.mktemp("shared")
    generate(root / "corpora", scale=0.1)
    block_libraries(root / "site", root / "steps.txt")
    return root


def prepared(root: Path, profile: str, shared: Path) -> Checkout:
    """Return a checkout with a profile as its params.yaml, its corpora and its base, without any training beyond it."""
    copy = checkout(root / "repository")
    copy.run("dvc", "config", "--quiet", "--local", "cache.dir", str(shared / "cache"))
    copy.run("emoverse", "profile", profile, "--force")
    copy.set_params(CHANGES)
    params = load_params(copy.root / "params.yaml")
    for name, corpus in params.corpora.items():
        (copy.root / corpus.root).parent.mkdir(parents=True, exist_ok=True)
        (copy.root / corpus.root).symlink_to(shared / "corpora" / name.upper())
    source = copy.root / params.base_model.source
    vision = {"image_size": 448, "patch_size": 112}  # four tokens a frame
    write_checkpoint(source, config(TEXT_MODELS[source.name], vision=vision, force_image_size=448))
    return copy


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_runs_from_the_videos_to_the_report_in_its_images(profile: str, shared: Path, tmp_path: Path) -> None:
    copy = prepared(tmp_path, profile, shared)
    replace(copy, python_path=(shared / "site",)).run("dvc", "repro", "--quiet")
    media = load_params(copy.root / "params.yaml").media
    assert (media.size, media.frames, media.colour, media.encoding) == (448, 8, "rgb", "jpeg")
    ran = set((shared / "steps.txt").read_text("utf-8").splitlines())
    assert ran >= {f"{step.name} {step.image}" for step in STEPS.values() if step.stages}
    for name in ("meld", "ecf", "mosei"):
        dropped = open_source(copy.root / "data/validated" / name).manifest["rows"]["dropped"]
        assert "clip-unreadable" not in dropped or dropped["clip-unreadable"] <= 2, "the planted faults alone"
    for stage in ("stage1", "stage2"):
        assert open_source(copy.root / "data" / stage).manifest["rows"]["out"] > 0
    metrics = json.loads((copy.root / "data/scores/metrics.json").read_text("utf-8"))
    assert {"mer", "msa", "eri", "ecpe"} <= metrics.keys()
    parity = json.loads((copy.root / "data/onnx/parity.json").read_text("utf-8"))
    assert parity.keys() == {"fp16"}
    page = (copy.root / "reports/index.html").read_text("utf-8")
    assert open_source(copy.root / "data/stage2").digest in page
