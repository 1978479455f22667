"""Acceptance on a real server: the sample, its cache, variants, lost pods, failures; digests equal to `dvc repro`'s."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emoverse.config import load_params, plain
from pipelines.cluster import load_cluster
from pipelines.options import SECTIONS, default_arguments
from pipelines.runs import Run
from tests.cluster.conftest import (
    BRIEF,
    CLAIM,
    GIVEN,
    HOST,
    KUBECTL,
    PARAMETERS,
    PARAMS,
    PROFILE,
    PUBLIC,
    REPO,
    WORKSPACE,
    Cluster,
)
from tests.factories.kubeflow import COMPILED

pytestmark = pytest.mark.slow
STEPS = {
    *(f"{step} {name}" for step in ("fetch", "validate") for name in ("meld", "ecf", "mosei")),
    "fetch base model", "base-model", "build-amt", "budget",
    "train stage1", "train stage2", "evaluate", "export", "report",
}  # fmt: skip


@pytest.fixture(scope="module")
def first(cluster: Cluster) -> tuple[Run, str]:
    """Submit the sample as it is."""
    return cluster.submit("--name", "acceptance")


def states(cluster: Cluster, run: Run) -> dict[str, str]:
    return {name: step.state for name, step in cluster.steps(run).items()}


def test_the_sample_succeeds_and_each_step_is_printed_by_its_name(cluster: Cluster, first: tuple[Run, str]) -> None:
    run, printed = first
    assert states(cluster, run).keys() == STEPS
    assert set(states(cluster, run).values()) <= {"succeeded", "cached"}
    assert all(step in printed for step in STEPS)


def planned(cluster: Cluster, *words: str) -> set[str]:
    """Return the steps that `plan` says a submission will run."""
    done = cluster.emoverse("plan", "--host", HOST, "--cluster", PROFILE, *GIVEN, "--json", *words)
    assert done.returncode == 0, done.stderr
    return {step["name"] for step in json.loads(done.stdout[done.stdout.index("[") :]) if step["reason"]}


def test_submitted_again_nothing_will_run(cluster: Cluster, first: tuple[Run, str]) -> None:
    assert planned(cluster) == set()  # the recurring run below is such a run


def test_after_a_commit_that_changes_no_code_a_changed_parameter_runs_what_the_plan_says_and_no_more(
    cluster: Cluster, first: tuple[Run, str], tmp_path: Path
) -> None:
    def git(*words: str, cwd: Path = REPO) -> str:
        return subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()

    change = ["--set", "export.compared=3"]
    expected = planned(cluster, *change)
    folder = tmp_path / "checkout"
    git("worktree", "add", "--detach", str(folder))
    try:
        author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        git(*author, "commit", "--allow-empty", "--message", "Change nothing", cwd=folder)
        if (REPO / ".dvc/config.local").is_file():
            shutil.copy(REPO / ".dvc/config.local", folder / ".dvc/config.local")
        run, _ = cluster.submit(*change, cwd=folder, profile=str(Path(PROFILE).absolute()))
        assert git("rev-parse", "HEAD", cwd=folder) in cluster.api.run(run.id)["description"]
    finally:
        git("worktree", "remove", "--force", str(folder))
    found = states(cluster, run)
    assert {name for name, state in found.items() if state == "succeeded"} == expected == {"export", "report"}
    assert {name for name, state in found.items() if state == "cached"} == STEPS - expected


def test_two_shards_and_two_seeds_succeed(cluster: Cluster, first: tuple[Run, str]) -> None:
    run, _ = cluster.submit("--shards", "2", "--seeds", "1", "2", "--name", "sweep", *BRIEF)
    found = states(cluster, run)
    assert {"compare-seeds", "evaluate seed 1", "evaluate seed 2", "validate-part meld 2/2"} <= found.keys()
    assert set(found.values()) <= {"succeeded", "cached"}


def test_a_workspace_keeps_the_raw_corpora(cluster: Cluster, first: tuple[Run, str]) -> None:
    if not WORKSPACE:
        pytest.skip("needs a profile with a workspace: WORKSPACE=FILE")
    run, _ = cluster.submit("--name", "workspace", *BRIEF, profile=WORKSPACE)
    assert set(states(cluster, run).values()) <= {"succeeded", "cached"}


def test_a_claim_keeps_the_raw_corpora(cluster: Cluster, first: tuple[Run, str]) -> None:
    profile, _, folder = CLAIM.partition(":")
    if not folder:
        pytest.skip("needs a profile with a volume: CLAIM=FILE:FOLDER")
    run, _ = cluster.submit("--name", "claim", "--raw-volume", folder, *BRIEF, profile=profile)
    assert states(cluster, run)["fetch meld"] == "succeeded"
    assert set(states(cluster, run).values()) <= {"succeeded", "cached"}
    if load_cluster(Path(profile)).publish:
        assert "SUCCEEDED" in cluster.log(run, "finish")


def test_a_deleted_pod_is_retried_and_training_goes_on(cluster: Cluster, first: tuple[Run, str]) -> None:
    if not KUBECTL:
        pytest.skip('needs kubectl: KUBECTL="kubectl -n NAMESPACE"')
    run, _ = cluster.submit(*BRIEF, "--set", "stage2.seed=4711", "--name", "deleted", wait=False)
    step = cluster.until(run, "train stage2", "running")
    cluster.kubectl("delete", "pod", step.pod, "--wait=false")
    watched = cluster.emoverse("watch", run.id, "--host", HOST, "--retries", "2")
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert "retry 1 of 2: train stage2" in watched.stdout


def test_a_terminated_run_is_retried(cluster: Cluster, first: tuple[Run, str]) -> None:
    # With the claim where there is one: its profile may have an exit handler, and its steps are in the cache.
    profile, _, folder = CLAIM.partition(":")
    change = (*BRIEF, "--set", "stage2.seed=4712", *(("--raw-volume", folder) if folder else ()))
    run, _ = cluster.submit(*change, "--name", "terminated", wait=False, profile=profile or PROFILE)
    cluster.until(run, "train stage2", "running")
    cluster.api.terminate(run.id)
    watched = cluster.emoverse("watch", run.id, "--host", HOST)
    assert watched.returncode == 2
    assert "train stage2: the run was terminated" in watched.stderr
    publishes = bool(load_cluster(Path(profile or PROFILE)).publish)
    if publishes:
        assert "STOPPED" in cluster.log(run, "finish")
    assert cluster.emoverse("retry", run.id, "--host", HOST).returncode == 0
    assert cluster.emoverse("watch", run.id, "--host", HOST).returncode == 0
    if publishes:
        assert "SUCCEEDED" in cluster.log(run, "finish")


def test_the_message_of_a_failing_step_reaches_the_terminal(cluster: Cluster, first: tuple[Run, str]) -> None:
    change = ["--set", "stage2.max_length=16", "--wait"]
    done = cluster.emoverse("submit", "--host", HOST, "--cluster", PROFILE, *GIVEN, *change)
    assert done.returncode == 2
    assert "budget: emoverse: " in done.stderr
    assert "stage2.max_length" in done.stderr


def kfp_run(cluster: Cluster, file: Path, **arguments: Any) -> Run:
    """Start a run of a compiled file with kfp's own client and wait until it has succeeded."""
    kfp = [str(Path(sys.executable).with_name("kfp")), "--endpoint", HOST, "--output", "json"]
    command = [
        *kfp,
        "run",
        "create",
        "-e",
        "acceptance",
        "-f",
        str(file),
        *(f"{name}={json.dumps(value)}" for name, value in arguments.items()),
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    shown, _ = json.JSONDecoder().raw_decode(made.stdout[made.stdout.index("{") :])
    run = Run(shown["run_id"], cluster.api.run_url(shown["run_id"]))
    watched = cluster.emoverse("watch", run.id, "--host", HOST)
    assert watched.returncode == 0, watched.stdout + watched.stderr
    return run


def test_a_file_compiled_for_the_cluster_runs_by_kubeflows_own_client(
    cluster: Cluster, first: tuple[Run, str], tmp_path: Path
) -> None:
    done = cluster.emoverse("compile", *PARAMETERS, "--cluster", PROFILE, "--out", str(tmp_path / "emoverse.yaml"))
    assert done.returncode == 0, done.stderr
    given = cluster.arguments_of(first[0])
    remotes = {one["corpus"]: one["remote"] for one in given["corpora"]}
    corpora = default_arguments(load_params(REPO / "params.yaml"), REPO).corpora
    corpora = [{**one, "remote": remotes[one["corpus"]]} for one in corpora]
    # The file accepts any code; with the digests of the first run, its results are in the cache.
    given = {name: value for name, value in given.items() if name.startswith("code_") or name == "weights_remote"}
    run = kfp_run(cluster, tmp_path / "emoverse.yaml", corpora=corpora, **given)
    assert set(states(cluster, run).values()) == {"cached"}


def test_the_committed_file_runs_by_kubeflows_own_client(cluster: Cluster) -> None:
    if not PUBLIC:
        pytest.skip("needs the images on the nodes and a remote without secrets: PUBLIC=URL")
    corpora = default_arguments(load_params(REPO / "params.yaml"), REPO).corpora
    remote = json.dumps({"url": PUBLIC})
    corpora = [{**one, "remote": remote} for one in corpora]
    # The file has the parameters of the sample; others are given as a user would.
    sections = plain(load_params(REPO / PARAMS)) if PARAMS else {}
    given = {name: sections[name] for name in SECTIONS if sections}
    run = kfp_run(cluster, COMPILED, **given, corpora=corpora, weights_remote=remote)
    assert states(cluster, run).keys() == STEPS


def test_a_recurring_run_starts_by_itself_and_everything_is_cached(cluster: Cluster, first: tuple[Run, str]) -> None:
    done = cluster.emoverse(
        "submit", "--host", HOST, "--cluster", PROFILE, *GIVEN, "--cron", "0 * * * * *", "--name", "recurring"
    )
    assert done.returncode == 0, done.stderr
    (recurring,) = re.findall(r"recurringrun/details/([\w-]+)", done.stdout)[:1]
    try:
        run = cluster.run_started_by(recurring)
        watched = cluster.emoverse("watch", run.id, "--host", HOST)
        assert watched.returncode == 0, watched.stdout + watched.stderr
    finally:
        cluster.delete_recurring_run(recurring)
    assert set(states(cluster, run).values()) == {"cached"}


def test_the_digests_are_those_of_dvc_repro(cluster: Cluster, first: tuple[Run, str], digests: dict[str, str]) -> None:
    logs = [log for run in cluster.computed("report", first[0]) if "made from" in (log := cluster.log(run, "report"))]
    assert logs, "the server keeps no log of the report that the run shows"
    made_from = {line.split()[-1] for line in logs[0].partition("made from")[2].splitlines() if line}
    assert {name: digest for name, digest in digests.items() if digest not in made_from} == {}
