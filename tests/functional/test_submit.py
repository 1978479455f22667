"""submit: a run starts only when the data, the image and the endpoint are there; what the API is told is checked."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from emoverse.artifacts.digests import code_digest
from emoverse.cli.__init__ import main
from emoverse.config import TINY
from tests.factories import remotes
from tests.factories.kubeflow import RUN, Kubeflow, kubeflow, registry
from tests.factories.remotes import SECRET, Remote

REPO = Path(__file__).resolve().parents[2]
DIGEST = "sha256:" + "5" * 64
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep", "ignore:.*HTTPResponse.getheaders")  # inside DVC, kfp
Submit = Callable[..., int]
PROFILE = """
volumes: [{claim: raw, path: /mnt/raw}]
secrets: [{name: remote, env: {password: EMOVERSE_REMOTE_PASSWORD}}]
"""


@pytest.fixture
def cluster() -> Iterator[Kubeflow]:
    with kubeflow() as made:
        yield made


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with registry("team/emoverse-python", DIGEST) as address:
        yield f"{address}/team/emoverse-python@{DIGEST}"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Remote]]:
    """Return a repository whose one corpus lies in a WebDAV remote, and that remote."""
    folder = tmp_path_factory.mktemp("submit")
    root = remotes.repository(folder / "repository", {"train_sent_emo.csv": b"1", "train_splits/a.mp4": b"2"})
    tree = yaml.safe_load((REPO / "params.yaml").read_text("utf-8"))
    tree["corpora"] = {"meld": {"root": "raw/MELD"}}
    tree["base_model"]["source"] = TINY
    tree["amt"]["stage1"]["corpora"] = tree["amt"]["stage2"]["corpora"] = ["meld"]
    (root / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    (root / "cluster.yaml").write_text(PROFILE, "utf-8")
    (root / "workspace.yaml").write_text(PROFILE + "workspace: {size: 1Gi}\n", "utf-8")
    with remotes.webdav(folder / "webdav") as remote:
        remotes.use(root, remote)
        remotes.git(root, "add", "-A")
        remotes.git(root, "commit", "-qm", "parameters and remote")
        yield root, remote


@pytest.fixture
def order(workspace: tuple[Path, Remote], cluster: Kubeflow, image: str, monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Run ``emoverse submit`` in the repository; keywords replace its options."""
    monkeypatch.chdir(workspace[0])

    def _order(*words: str, **changes: str) -> int:
        options = {"host": cluster.host, "image-data": image, "image-train": image, "cluster": "cluster.yaml"}
        options |= {key.replace("_", "-"): value for key, value in changes.items()}
        return main(["submit", *[w for key, value in options.items() for w in (f"--{key}", value)], *words])

    return _order


def md5_of(root: Path) -> str:
    return str(yaml.safe_load((root / "raw/MELD.dvc").read_text("utf-8"))["outs"][0]["md5"])


def test_the_cluster_is_told_which_data_code_parameters_and_image(
    order: Submit, cluster: Kubeflow, image: str, workspace: tuple[Path, Remote], capsys: pytest.CaptureFixture[str]
) -> None:
    root, remote = workspace
    assert order("--experiment", "paper", "--set", "stage1.seed=99") == 0
    assert f"{cluster.host}/#/runs/details/{RUN}" in capsys.readouterr().out
    (run,) = cluster.runs
    assert [e["display_name"] for e in cluster.experiments] == ["paper"]
    assert run["experiment_id"] == "experiment-0"
    given = run["runtime_config"]["parameters"]
    (corpus,) = given["corpora"]
    assert (corpus["corpus"], corpus["md5"]) == ("meld", md5_of(root))
    assert json.loads(corpus["remote"]) == {"url": remote.url, "user": "carl"}
    assert given["stage1"]["seed"] == 99
    assert given["code_validate"] == code_digest("validate")
    document = run["pipeline_spec"]
    spec = document.get("pipeline_spec", document)
    assert set(given) <= set(spec["root"]["inputDefinitions"]["parameters"])
    containers = [e["container"] for e in spec["deploymentSpec"]["executors"].values() if "container" in e]
    assert {c["image"] for c in containers} == {image}
    variables = {v["name"]: v["value"] for v in containers[0]["env"]}
    assert variables["EMOVERSE_IMAGE"] == image
    assert remotes.git(root, "rev-parse", "HEAD") in spec["pipelineInfo"]["description"]
    assert "EMOVERSE_REVISION" not in json.dumps(spec["deploymentSpec"]), "a later cache key reads the environment"
    assert SECRET not in json.dumps(run)


def test_the_committed_pipeline_runs_by_kubeflows_own_client_alone(cluster: Kubeflow) -> None:
    corpora = json.dumps([{"corpus": "meld", "root": "", "md5": "0.dir", "remote": '{"url": "s3://raw"}'}])
    words = ["run", "create", "-e", "paper", "-f", str(REPO / "pipelines/emoverse.yaml"), f"corpora={corpora}"]
    kfp = Path(sys.executable).with_name("kfp")
    done = subprocess.run([kfp, "--endpoint", cluster.host, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = cluster.runs
    assert run["runtime_config"]["parameters"] == {"corpora": json.loads(corpora)}


@pytest.mark.parametrize("variant", [("--shards", "2"), ("--seeds", "1", "2"), ("--cluster", "workspace.yaml")])
def test_every_variant_is_submitted_with_parameters_it_knows(
    order: Submit, cluster: Kubeflow, variant: tuple[str, ...]
) -> None:
    assert order(*variant) == 0
    (run,) = cluster.runs
    document = run["pipeline_spec"]
    spec = document.get("pipeline_spec", document)
    given = run["runtime_config"]["parameters"]
    assert set(given) <= set(spec["root"]["inputDefinitions"]["parameters"])
    assert given["raw_volume"] == ("/kfp-workspace" if "workspace.yaml" in variant else "")
    assert ("pipelineConfig" in json.dumps(document)) == ("workspace.yaml" in variant)


def test_an_experiment_that_exists_is_used_and_the_cache_can_be_left_out(order: Submit, cluster: Kubeflow) -> None:
    assert order() == order("--no-cache") == 0
    assert len(cluster.experiments) == 1
    cached, fresh = (json.dumps(run["pipeline_spec"]).count('"enableCache": true') for run in cluster.runs)
    assert cached >= 9
    assert fresh == 0, "the client's own switch forgets the tasks of a loop"


def test_waiting_shows_each_step_once_per_state_and_ends_with_the_run(
    order: Submit, cluster: Kubeflow, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = "root.for-loop-1.iteration-iterations(0:0).iteration-item"
    cluster.states = [
        ("PENDING", {}),
        ("RUNNING", {f"{corpus}.fetch": "Skipped", f"{corpus}.validate": "Running"}),
        ("SUCCEEDED", {f"{corpus}.fetch": "Skipped", f"{corpus}.validate": "Succeeded", "root.train-2": "Succeeded"}),
    ]
    assert order("--wait", "--every", "0.01") == 0
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()[-4:]] == [
        "cached fetch meld", "running validate meld", "succeeded 89 s validate meld", "succeeded 88 s train stage2",
    ]  # fmt: skip


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_waiting_for_a_run_that_fails_ends_with_the_steps_own_last_line(
    order: Submit, cluster: Kubeflow, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.states = [(state, {"root.base-model": "Succeeded", "root.train": ("Failed", "Error (exit code 1)")})]
    cluster.logs = {"root.train": "I0101 driver\nstep 3 of 9\nemoverse: stage1: not finite; lower it\nF0101 exit 2\n"}
    assert order("--wait") == 2
    printed = capsys.readouterr().err
    assert f"{RUN}: the run ended as {state.lower()}: train stage1: emoverse: stage1: not finite; lower it" in printed


def test_runs_that_differ_in_parameters_are_runs_of_one_version_with_names_that_tell_them_apart(
    order: Submit, cluster: Kubeflow, workspace: tuple[Path, Remote]
) -> None:
    assert order("--set", "stage1.epochs=1") == order("--set", "stage1.epochs=2") == order("--name", "mine") == 0
    assert order("--shards", "2") == 0
    assert [run["display_name"] for run in cluster.runs[:3]] == ["stage1.epochs=1", "stage1.epochs=2", "mine"]
    assert [p["display_name"] for p in cluster.pipelines] == ["emoverse"]
    used = [run["pipeline_version_reference"]["pipeline_version_id"] for run in cluster.runs]
    assert used == ["version-0", "version-0", "version-0", "version-1"]
    head = remotes.git(workspace[0], "rev-parse", "HEAD")
    assert all(one["display_name"].startswith(head[:12]) for one in cluster.versions)
    assert len({one["display_name"] for one in cluster.versions}) == 2
    assert all(head in run["description"] for run in cluster.runs)


def test_a_recurring_run_is_of_the_same_version(order: Submit, cluster: Kubeflow) -> None:
    assert order("--cron", "0 0 3 * * 1", "--name", "weekly") == 0
    assert cluster.runs == []
    (made,) = cluster.recurring
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 1"}}
    assert made["display_name"] == "weekly"
    assert made["pipeline_version_reference"]["pipeline_version_id"] == "version-0"


def refused(order: Submit, cluster: Kubeflow, capsys: pytest.CaptureFixture[str], *words: str, **changes: str) -> str:
    assert order(*words, **changes) == 2
    assert cluster.runs == []
    return capsys.readouterr().err


def test_an_image_that_is_not_pinned_by_its_digest_is_refused(
    order: Submit, cluster: Kubeflow, capsys: pytest.CaptureFixture[str]
) -> None:
    for image in ("team/emoverse-python:1.0", f"team/emoverse-python@{DIGEST[:-1]}", "team/emoverse-python"):
        printed = refused(order, cluster, capsys, image_train=image)
        assert "--image-train: " in printed
        assert "not pinned by its digest" in printed
        assert "RepoDigests" in printed


def test_an_image_its_registry_does_not_hold_is_refused(
    order: Submit, cluster: Kubeflow, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = image.replace("5" * 64, "6" * 64)
    assert "the registry does not hold it; push it with `docker push`" in refused(
        order, cluster, capsys, image_data=other
    )
    dead = f"127.0.0.1:9/team/emoverse-python@{DIGEST}"
    assert "the registry gives no answer" in refused(order, cluster, capsys, image_train=dead)
    assert order("--unchecked", "image", image_train=dead) == 0


def test_a_registry_that_asks_for_a_token_is_given_one(order: Submit) -> None:
    with registry("team/emoverse-python", DIGEST, token="one-time") as address:
        assert order(image_train=f"{address}/team/emoverse-python@{DIGEST}") == 0


def test_a_dead_or_wrong_endpoint_is_refused(
    order: Submit, cluster: Kubeflow, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "the endpoint gives no answer" in refused(order, cluster, capsys, host="http://127.0.0.1:9")
    assert "port-forward" in refused(order, cluster, capsys, host="http://127.0.0.1:9")
    wrong = "http://" + image.split("/")[0]
    assert "the endpoint answers with HTTP 404" in refused(order, cluster, capsys, host=wrong)
    assert "not an http(s) address" in refused(order, cluster, capsys, host="kubeflow.example.org")


def test_a_cluster_that_asks_for_a_token_gets_it_from_the_environment(
    order: Submit, cluster: Kubeflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.token = "canary-token"
    assert "put a token into KUBEFLOW_TOKEN" in refused(order, cluster, capsys)
    monkeypatch.setenv("KUBEFLOW_TOKEN", "canary-token")
    assert order() == 0
    assert "canary" not in json.dumps(cluster.runs)


def test_an_unknown_parameter_is_refused_by_the_nearest_name(
    order: Submit, cluster: Kubeflow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "'stage1.sead', did you mean 'seed'?" in refused(order, cluster, capsys, "--set", "stage1.sead=1")
    assert cluster.seen == []


def test_a_corpus_that_its_remote_lacks_a_file_of_is_refused(
    order: Submit, cluster: Kubeflow, workspace: tuple[Path, Remote], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workspace[1].folder
    assert folder
    (path,) = [p for p in folder.rglob("*") if p.is_file() and p.read_bytes() == b"2"]
    path.chmod(0o644)
    path.rename(path.with_suffix(".gone"))
    try:
        printed = refused(order, cluster, capsys)
        assert "lacks 1 of its 2 files, such as train_splits/a.mp4; run `dvc push raw/MELD`" in printed
    finally:
        path.with_suffix(".gone").rename(path)


def test_a_remote_that_pods_cannot_see_is_refused_unless_a_volume_holds_the_data(
    order: Submit, cluster: Kubeflow, workspace: tuple[Path, Remote], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    root = tmp_path / "copy"
    shutil.copytree(workspace[0], root)
    remotes.use(root, Remote(str(tmp_path / "store")))
    monkeypatch.chdir(root)
    assert "a folder of this machine, which pods cannot read" in refused(order, cluster, capsys)
    assert order("--raw-volume", "/mnt/raw") == 0
    given = cluster.runs.pop()["runtime_config"]["parameters"]
    assert given["raw_volume"] == "/mnt/raw"
    assert given["corpora"][0]["remote"] == ""
    printed = refused(order, cluster, capsys, "--raw-volume", "/mnt/rawer")
    assert "no volume of the cluster profile is mounted there (mounted: /mnt/raw)" in printed
    printed = refused(order, cluster, capsys, "--raw-volume", "/kfp-workspace/raw")
    assert "give the profile a `workspace`" in printed
    printed = refused(order, cluster, capsys, "--cluster", "workspace.yaml")
    assert "which pods cannot read" in printed, "a run's workspace starts empty"


def test_a_secret_that_no_pod_would_get_is_refused(
    order: Submit, cluster: Kubeflow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cluster.yaml").write_text("secrets: [{name: other, env: {key: SOMETHING}}]\n", "utf-8")
    profile = str(tmp_path / "cluster.yaml")
    printed = refused(order, cluster, capsys, "--cluster", profile)
    assert "its remote needs EMOVERSE_REMOTE_PASSWORD, which no secret of the cluster profile gives" in printed
    assert "under `secrets` in the profile" in printed
    assert order("--cluster", profile, "--unchecked", "secrets") == 0


def test_weights_to_start_from_are_checked_and_sent_as_a_corpus_is(
    order: Submit, cluster: Kubeflow, workspace: tuple[Path, Remote], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no .dvc file names it" in refused(order, cluster, capsys, "--set", "base_model.source=models/none")
    assert order("--set", "base_model.source=raw/MELD") == 0
    given = cluster.runs[0]["runtime_config"]["parameters"]
    assert (given["weights_md5"], given["weights_root"]) == (md5_of(workspace[0]), "raw/MELD")
    assert json.loads(given["weights_remote"])["url"] == workspace[1].url
    assert [one["corpus"] for one in given["corpora"]] == ["meld"]


def test_a_revision_that_git_does_not_know_is_refused(
    order: Submit, cluster: Kubeflow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "git does not know it" in refused(order, cluster, capsys, "--rev", "nowhere")


def test_the_verb_fetch_fills_a_volume_once(
    workspace: tuple[Path, Remote], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace[0])
    for _ in range(2):
        assert main(["fetch", "raw/MELD", "--volume", str(tmp_path)]) == 0
        assert f"2 files, 2 bytes, md5 {md5_of(workspace[0])}" in capsys.readouterr().out
    (tmp_path / "mine.txt").write_text("keep me", "utf-8")
    assert main(["fetch", "raw/MELD", "--out", str(tmp_path)]) == 2
    assert "but the run asked for" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text("utf-8") == "keep me"
    assert sorted(p.name for p in (tmp_path / md5_of(workspace[0])).iterdir()) == ["train_sent_emo.csv", "train_splits"]
