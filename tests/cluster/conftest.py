"""A real Kubeflow cluster to accept the pipeline on, named by environment variables (`make test-cluster`)."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from emoverse.config import load_params
from emoverse.http import HttpClient, NoAnswerError, bearer, token_from
from pipelines.kubeflow_api import TOKEN, KubeflowApi
from pipelines.runs import Follower, Run, StepState

REPO = Path(__file__).resolve().parents[2]
HOST, PROFILE, REMOTE, PARAMS, REPRO, WORKSPACE, CLAIM, PUBLIC, KUBECTL = (
    os.environ.get(f"EMOVERSE_CLUSTER_{name}", "")
    for name in ("HOST", "PROFILE", "REMOTE", "PARAMS", "REPRO", "WORKSPACE", "CLAIM", "PUBLIC", "KUBECTL")
)
# Other parameters than the sample's own, for a quicker acceptance.
PARAMETERS = ("--params", PARAMS) if PARAMS else ()
GIVEN = (*PARAMETERS, *(("--remote", REMOTE) if REMOTE else ()))
# For runs whose results are not compared; PARAMS are brief by themselves, and their stage 1 is in the cache.
BRIEF = () if PARAMS else (
    "--set", "stage1.epochs=0.5", "--set", "stage2.epochs=0.5", "--set", "evaluate.bootstrap=20",
    "--set", "evaluate.agreement=0",
)  # fmt: skip


@dataclass(frozen=True)
class Cluster:
    """The cluster, through the same commands that a user types."""

    api: KubeflowApi

    def emoverse(self, *words: str, cwd: Path = REPO, timeout: int = 7200) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "emoverse.cli", *words]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)

    def submit(self, *words: str, wait: bool = True, profile: str = PROFILE, cwd: Path = REPO) -> tuple[Run, str]:
        """Submit and return the run and what was printed; fail unless it succeeded."""
        options = ["--host", HOST, "--cluster", profile, *GIVEN]
        done = self.emoverse("submit", *options, *words, *(["--wait"] if wait else []), cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.run_of(done.stdout), done.stdout

    def run_of(self, printed: str) -> Run:
        (run_id,) = re.findall(r"runs/details/([\w-]+)", printed)[:1]
        return Run(run_id, self.api.run_url(run_id))

    def steps(self, run: Run) -> dict[str, StepState]:
        return {step.name: step for step in Follower(self.api, run).look()[1]}

    def until(self, run: Run, step: str, state: str, timeout: float = 3600) -> StepState:
        """Wait until a step of a run is in a state."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            with suppress(NoAnswerError):  # a busy server leaves a request without an answer now and then
                found = self.steps(run).get(step)
                if found and found.state == state:
                    return found
            time.sleep(5)
        raise AssertionError(f"{step} was not {state} after {timeout} s")

    def log(self, run: Run, step: str) -> str:
        return Follower(self.api, run).log_of(self.steps(run)[step])

    def arguments_of(self, run: Run) -> dict[str, Any]:
        return dict(self.api.run(run.id)["runtime_config"]["parameters"])

    def computed(self, step: str, run: Run) -> list[Run]:
        """Return the runs with the parameters of this one in which a step was computed, not cached; newest first."""
        runs = [Run(one["run_id"], self.api.run_url(one["run_id"])) for one in self.api.runs()]
        runs = [one for one in runs if self.arguments_of(one) == self.arguments_of(run)]
        return [one for one in runs if (state := self.steps(one).get(step)) and state.state == "succeeded"]

    def run_started_by(self, recurring: str, timeout: float = 600) -> Run:
        """Wait for the first run of a recurring run."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for one in self.api.runs():
                if one.get("recurring_run_id") == recurring:
                    return Run(one["run_id"], self.api.run_url(one["run_id"]))
            time.sleep(5)
        raise AssertionError(f"the recurring run {recurring} started no run in {timeout} s")

    def delete_recurring_run(self, recurring: str) -> None:
        url = f"{self.api.address}/apis/v2beta1/recurringruns/{recurring}"
        assert HttpClient(authorization=bearer(token_from(TOKEN))).request("DELETE", url).status == 200

    def kubectl(self, *words: str) -> str:
        done = subprocess.run([*KUBECTL.split(), *words], capture_output=True, text=True, check=True)
        return done.stdout


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    if not HOST or not PROFILE:
        pytest.skip("needs a cluster: make test-cluster HOST=http://... PROFILE=FILE REMOTE=NAME")
    return Cluster(KubeflowApi(HOST))


@pytest.fixture(scope="session")
def digests() -> dict[str, str]:
    """Return the digests that `dvc repro` gave, by output: in this tree, or in the checkout that REPRO names."""
    tree = Path(REPRO) if REPRO else REPO
    if load_params(tree / "params.yaml") != load_params(REPO / (PARAMS or "params.yaml")):
        pytest.skip(f"{tree}/params.yaml has other parameters than the runs: name a checkout with theirs, REPRO=FOLDER")
    found = {}
    corpora = [f"validated/{name}" for name in ("meld", "ecf", "mosei")]
    for name in (*corpora, "amt", "base", "stage1", "stage2", "scores", "onnx"):
        manifest = tree / "data" / name / "manifest.json"
        if not manifest.is_file():
            pytest.skip(f"run `dvc repro` first: there is no {manifest}")
        found[name] = json.loads(manifest.read_text("utf-8"))["outputs"]["digest"]
    return found
