"""Training on several nodes as a TrainJob: its manifest, waiting for it, and whatever may come between."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

from emoverse.artifacts.digests import folder_files
from emoverse.artifacts.manifest import publish, read_manifest
from emoverse.config import TrainParams
from emoverse.errors import UserError
from emoverse.training.distributed import PreemptedError
from emoverse.training.train import train
from emoverse.training.train_job import TEMPLATE, manifest, train_as_job
from pipelines.cluster import load_cluster, train_job_template
from tests.factories.kubernetes import API, Cluster, Nodes, kubernetes, logged, pod
from tests.factories.ranks import log_of
from tests.factories.training import make_training, train_params

REPO = Path(__file__).resolve().parents[2]
TWO = train_params(batch_size=2, nodes=2)
PROFILE = """
images: {train: "registry/train@sha256:00"}
volumes: [{claim: shared, path: FOLDER}]
trainer: {folder: FOLDER}
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Serve a cluster's API, to a step whose profile names a shared folder on it."""
    profile = tmp_path / "cluster.yaml"
    profile.write_text(PROFILE.replace("FOLDER", str(tmp_path / "shared")), "utf-8")
    loaded = load_cluster(profile)
    assert loaded.trainer is not None
    job = train_job_template(loaded, loaded.trainer, loaded.images.train)
    monkeypatch.setenv(TEMPLATE, json.dumps({"folder": str(tmp_path / "shared"), "job": job}))
    with kubernetes(tmp_path) as made:
        yield made


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Publish small folders in place of a model, AMT and frames, for jobs that train nothing."""
    for name, step in (("base", "base-model"), ("amt", "build-amt"), ("meld", "validate")):
        with publish(tmp_path / name, step=step, params={}, inputs={}, code_of="report") as draft:
            (draft.path / "content").write_text(name, "utf-8")
    return {"model": tmp_path / "base", "amt": tmp_path / "amt", "meld": tmp_path / "meld"}


def step(folders: dict[str, Path], params: TrainParams = TWO) -> Path:
    """Train stage 1 as the pod of the step does; return its output."""
    out = folders["amt"].parent / "out"
    train_as_job("stage1", folders["model"], folders["amt"], [folders["meld"]], out, params, pause=0.02)
    return out


def task_of(job: dict[str, Any]) -> dict[str, Any]:
    """Return the task that a job's command names."""
    *_, file = job["spec"]["trainer"]["command"]
    return {"place": Path(file).parent, **json.loads(Path(file).read_text("utf-8"))}


def trained(job: dict[str, Any]) -> str:
    """Leave a result, as the nodes of a job do."""
    out = Path(task_of(job)["out"])
    if not out.exists():
        with publish(out, step="train", params={}, inputs={}, code_of="report") as draft:
            (draft.path / "weights").write_text("trained", "utf-8")
            draft.run = {"training": {"tokens_per_second": 7.0}}
    return "Complete: jobset completed successfully"


@pytest.mark.parametrize("profile", [REPO / "docs/cluster.yaml", None], ids=["of the docs", "a small one"])
def test_the_manifest_is_a_train_job_by_the_published_schema(profile: Path | None, tmp_path: Path) -> None:
    small = tmp_path / "cluster.yaml"
    small.write_text(PROFILE.replace("FOLDER", "/shared"), "utf-8")
    loaded = load_cluster(profile or small)
    assert loaded.trainer is not None
    made = manifest(
        train_job_template(loaded, loaded.trainer, loaded.images.train), "emoverse-stage1-00", Path("/t.json"), TWO
    )
    assert _by_schema(made) == made
    trainer = made["spec"]["trainer"]
    assert (trainer["image"], trainer["numNodes"], trainer["numProcPerNode"]) == (loaded.images.train, 2, 1)
    assert not [entry for entry in trainer["env"] if entry["name"].startswith("PET_")]  # Trainer refuses these
    wrong = {**made, "spec": {**made["spec"], "trainer": {**trainer, "nodes": 2}}}
    assert _by_schema(wrong) != wrong  # the comparison above sees a key that the schema does not have


def _by_schema(made: dict[str, Any]) -> dict[str, Any]:
    """Return what the published models keep of a manifest; they raise for a value of the wrong type."""
    read = TrainerV1alpha1TrainJob.from_dict(made)
    assert read is not None
    return dict(read.to_dict())


def test_nodes_get_what_the_profile_gives_to_training_pods() -> None:
    loaded = load_cluster(REPO / "docs/cluster.yaml")
    assert loaded.trainer is not None
    spec = train_job_template(loaded, loaded.trainer, "image")["spec"]
    assert spec["trainer"]["resourcesPerNode"] == {
        "requests": {"cpu": "8", "memory": "64Gi"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "1"},
    }
    env = {entry["name"]: entry["value"] for entry in spec["trainer"]["env"]}
    assert env["EMOVERSE_SCRATCH"] == loaded.trainer.folder
    (job,) = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pods = job["template"]["spec"]["template"]["spec"]
    claims = {one["name"]: one["persistentVolumeClaim"]["claimName"] for one in pods["volumes"][:3]}
    mounted = {one["mountPath"]: claims.get(one["name"]) for one in pods["containers"][0]["volumeMounts"]}
    assert mounted == {
        "/raw": "emoverse-raw", "/scratch": "emoverse-scratch", "/reports": "reports", "/dev/shm": None,
    }  # fmt: skip
    assert pods["nodeSelector"] == {"accelerator": "a100"}
    assert pods["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pods["imagePullSecrets"] == [{"name": "registry-login"}]


def test_the_manifests_command_on_two_nodes_learns_what_one_process_does_at_twice_the_accumulation(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = make_training(tmp_path, count=4)  # so that every update is of all rows, in whatever order
    settings = {"batch_size": 2, "epochs": 6.0, "save_every": 50}
    cluster.look = Nodes(cluster).look
    out = step(folders, train_params(**settings, nodes=2))
    printed = capfd.readouterr().err
    monkeypatch.setenv("EMOVERSE_SCRATCH", str(tmp_path / "scratch"))
    one = train_params(**settings, accumulation=2)
    train("stage1", folders["model"], folders["amt"], [folders["meld"]], tmp_path / "one", one)
    together, alone = log_of(out), log_of(tmp_path / "one")
    assert len(alone) == 6
    assert [entry["step"] for entry in together] == [entry["step"] for entry in alone]
    assert [entry["loss"] for entry in together] == pytest.approx([entry["loss"] for entry in alone], abs=1e-4)
    assert (out / "rows.json").read_bytes() == (tmp_path / "one/rows.json").read_bytes()
    assert read_manifest(out)["params"]["nodes"] == 2
    assert read_manifest(out)["inputs"] == read_manifest(tmp_path / "one")["inputs"]
    assert printed.count("stage1: step 6/6") == 1  # the first node's log, each line once
    assert not list((tmp_path / "shared/jobs").iterdir())
    assert not list((tmp_path / "shared/train").glob("*/checkpoint-*"))


def test_a_result_is_the_steps_output_with_its_notes(cluster: Cluster, folders: dict[str, Path]) -> None:
    looks: list[str] = []

    def look(job: dict[str, Any]) -> str:
        looks.append(job["metadata"]["name"])
        return trained(job) if len(looks) > 3 else ""

    cluster.look = look
    out = step(folders)
    assert (out / "weights").read_text("utf-8") == "trained"
    assert json.loads(out.with_name("out.run.json").read_text("utf-8"))["training"] == {"tokens_per_second": 7.0}
    assert cluster.done == [f"create {looks[0]}", f"delete {looks[0]}"]


def test_nodes_read_copies_of_the_inputs_which_a_second_training_finds(
    cluster: Cluster, folders: dict[str, Path], tmp_path: Path
) -> None:
    seen: list[dict[str, Any]] = []

    def look(job: dict[str, Any]) -> str:
        seen.append(task_of(job))
        return trained(job)

    cluster.look = look
    step(folders)
    copies = [Path(path) for path in (seen[0]["model"], seen[0]["amt"], *seen[0]["validated"])]
    assert all(copy.is_relative_to(tmp_path / "shared/inputs") for copy in copies)
    assert [folder_files(copy) for copy in copies] == [folder_files(folders[name]) for name in ("model", "amt", "meld")]
    inodes = [(copy / "content").stat().st_ino for copy in copies]
    shutil.rmtree(tmp_path / "out")
    step(folders, train_params(batch_size=2, nodes=3))
    assert seen[-1]["params"]["nodes"] == 3
    assert [(copy / "content").stat().st_ino for copy in copies] == inodes


def test_the_first_nodes_log_is_passed_on_and_what_keeps_a_node_from_starting(
    cluster: Cluster, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node has a GPU"}
    image = {
        "name": "node", "image": "i", "imageID": "", "ready": False, "restartCount": 0,
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
    }  # fmt: skip
    states: list[Any] = [
        lambda: cluster.pods.append(pod(1, phase="Pending", conditions=[waits])),
        lambda: cluster.pods.append(pod(0, phase="Pending", containerStatuses=[image])),
        lambda: cluster.pods.__setitem__(slice(None), [pod(0, phase="Running"), pod(1, phase="Running")]),
        lambda: cluster.logs.update({"node-0": [logged("step 1/2", 40.0)], "node-1": [logged("not shown")]}),
        lambda: cluster.logs["node-0"].append(logged("step 2/2")),
    ]

    def look(job: dict[str, Any]) -> str:
        if states:
            states.pop(0)()
            return ""
        return trained(job)

    cluster.look = look
    step(folders)
    printed = [line.partition("stage1-")[2].partition(": ")[2] or line for line in capsys.readouterr().err.splitlines()]
    assert printed == [
        "created on 2 nodes",
        "node 1 waits: Unschedulable: no node has a GPU",
        "node 1 waits: Unschedulable: no node has a GPU; node 0 waits: ImagePullBackOff: no such image",
        "step 1/2",
        "step 2/2",
    ]


def test_a_failed_job_is_told_with_the_last_line_of_its_log(cluster: Cluster, folders: dict[str, Path]) -> None:
    ended = {
        "name": "node", "image": "i", "imageID": "", "ready": False, "restartCount": 6,
        "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
    }  # fmt: skip
    cluster.pods = [pod(0, phase="Failed"), pod(1, phase="Failed", containerStatuses=[ended])]
    cluster.logs = {"node-0": [logged("step 1/2"), logged("connection closed by peer")]}
    cluster.look = lambda job: "Failed: jobset failed due to one or more job failures"
    with pytest.raises(UserError) as caught:
        step(folders)
    (name,) = cluster.jobs  # it stays, for a person to look at
    assert str(caught.value) == (
        f"TrainJob {name}: failed (node 1: OOMKilled, exit code 137); last line of its log: 'connection closed by "
        "peer'; correct that, and run again to resume from the last checkpoint"
    )
    cluster.pods.clear()
    with pytest.raises(UserError, match=r"failed .AllJobsFailed: jobset failed due to one or more job failures.; "):
        step(folders)
    assert cluster.done == [f"create {name}", f"delete {name}", f"create {name}"]


def test_what_a_node_refuses_ends_the_job_and_is_the_steps_own_message(
    cluster: Cluster, folders: dict[str, Path]
) -> None:
    def look(job: dict[str, Any]) -> str:
        place = task_of(job)["place"]
        lost = {"node": "0", "at": 2.0, "failed": "RuntimeError: connection closed"}
        (place / "error-0.json").write_text(json.dumps(lost), "utf-8")
        refused = {"problem": "loss nan at step 3", "place": "", "remedy": "lower learning_rate"}
        (place / "error-1.json").write_text(json.dumps({"node": "1", "at": 1.0, "refused": refused}), "utf-8")
        return ""

    cluster.look = look
    with pytest.raises(UserError) as caught:
        step(folders)
    assert str(caught.value) == "loss nan at step 3; lower learning_rate"
    assert not cluster.jobs


def test_a_step_that_is_ended_deletes_its_job(cluster: Cluster, folders: dict[str, Path]) -> None:
    def look(job: dict[str, Any]) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return ""

    cluster.look = look
    with pytest.raises(PreemptedError, match="is deleted; run again to resume from its checkpoints"):
        step(folders)
    assert not cluster.jobs
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_another_try_of_the_step_waits_for_the_job_of_the_first(
    cluster: Cluster, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pods = "GET /api/v1/namespaces/team/pods"
    cluster.refused = {pods}  # no right to look at pods is no reason to fail

    def lose_its_rights(job: dict[str, Any]) -> str:
        cluster.refused.add(f"GET {API}/namespaces/")
        return ""

    cluster.look = lose_its_rights
    with pytest.raises(
        UserError, match=r"cannot get .*; give the run's service account the role that docs/kubeflow.md"
    ):
        step(folders)
    (name,) = cluster.jobs
    assert "created on 2 nodes" in capsys.readouterr().err

    cluster.refused = {pods}
    looks: list[None] = []

    def look(job: dict[str, Any]) -> str:
        looks.append(None)
        return trained(job) if len(looks) > 3 else ""

    cluster.look = look
    step(folders)
    assert "continues the TrainJob of an earlier try" in capsys.readouterr().err
    assert cluster.done == [f"create {name}", f"delete {name}"]


def test_an_api_that_is_away_for_a_while_ends_nothing(
    cluster: Cluster, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    looks: list[None] = []

    def look(job: dict[str, Any]) -> str:
        looks.append(None)
        cluster.down = 3 if len(looks) == 1 else 0
        return trained(job) if len(looks) > 1 else ""

    cluster.look = look
    step(folders)
    assert capsys.readouterr().err.count("Kubernetes answers with HTTP 503: etcdserver: leader changed") == 1


def _no_trainer(cluster: Cluster) -> None:
    cluster.trainer = False


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            _no_trainer,
            "this cluster has no Kubeflow Trainer, which training on several nodes needs; install",
        ),
        (lambda one: one.runtimes.clear(), "has no ClusterTrainingRuntime 'torch-distributed' here; name one"),
        (
            lambda one: one.known.remove("runtimePatches"),
            "Trainer is too old: strict decoding error: unknown field",
        ),
        (lambda one: one.refused.add("POST"), "cannot post /apis/trainer"),
    ],
)
def test_a_cluster_that_cannot_do_it_is_refused_with_the_reason(
    cluster: Cluster, folders: dict[str, Path], spoil: Any, words: str
) -> None:
    spoil(cluster)
    with pytest.raises(UserError) as caught:
        step(folders)
    assert words in str(caught.value)
    assert not cluster.jobs


def test_a_pipeline_that_was_compiled_for_one_node_is_refused(
    cluster: Cluster, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TEMPLATE)
    with pytest.raises(UserError, match="is 2, but the pipeline was compiled for training on one node"):
        step(folders)


def test_an_address_that_nobody_answers_at_is_named(cluster: Cluster, folders: dict[str, Path], tmp_path: Path) -> None:
    file = Path(os.environ["KUBECONFIG"])
    config = yaml.safe_load(file.read_text("utf-8"))
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    file.write_text(yaml.safe_dump(config), "utf-8")
    with pytest.raises(UserError, match=r"http://127.0.0.1:9: the Kubernetes API gives no answer: .*refused"):
        step(folders)
