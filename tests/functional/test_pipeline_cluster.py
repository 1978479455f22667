"""A cluster profile: what it says is what the pods get; what it may not say is refused before anything is compiled."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from emoverse.cli.__init__ import main
from emoverse.config import load_params
from emoverse.errors import UserError
from emoverse.training.train_job import TEMPLATE
from pipelines.checks import check_trainer
from pipelines.cluster import load_cluster, train_job_template
from tests.factories.kubeflow import tasks_of
from tests.factories.kubernetes import kubernetes

REPO = Path(__file__).resolve().parents[2]
EXAMPLE = REPO / "docs/cluster.yaml"
ON_GPU = {"exec-train", "exec-train-2", "exec-evaluate"}
IN_TRAIN = {*ON_GPU, "exec-import-base-model", "exec-export"}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compile for the documented profile; return the pipeline's executors and their Kubernetes settings, by name."""
    out = tmp_path_factory.mktemp("cluster") / "p.yaml"
    words = ["compile", "--params", str(REPO / "params.yaml"), "--out", str(out), "--cluster", str(EXAMPLE)]
    assert main(words) == 0
    pipeline, platform = yaml.safe_load_all(out.read_text("utf-8"))
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return pipeline["deploymentSpec"]["executors"], settings


def test_steps_run_in_the_images_of_the_profile(compiled: Any) -> None:
    profile = load_cluster(EXAMPLE)
    for name, executor in compiled[0].items():
        wanted = profile.images.train if name in IN_TRAIN else profile.images.data
        assert executor["container"]["image"] == wanted, name


def test_only_the_steps_named_get_a_gpu(compiled: Any) -> None:
    found = {n: e["container"].get("resources", {}).get("accelerator") for n, e in compiled[0].items()}
    assert {name for name, one in found.items() if one} == ON_GPU
    assert all(one["resourceType"] == "nvidia.com/gpu" and one["resourceCount"] == "1" for one in found.values() if one)


def test_the_pods_of_each_image_get_its_nodes_and_memory(compiled: Any) -> None:
    executors, settings = compiled
    for name, one in settings.items():
        in_train = name in IN_TRAIN
        assert ("nodeSelector" in one) == in_train, name
        assert ("tolerations" in one) == in_train, name
        shared = one.get("emptyDirMounts", [])
        assert [(s["mountPath"], s["medium"], s["sizeLimit"]) for s in shared] == (
            [("/dev/shm", "Memory", "16Gi")] if in_train else []
        )
        limit = executors[name]["container"]["resources"]["resourceMemoryLimit"]
        assert limit == ("64Gi" if in_train else "16Gi"), name
        assert "resourceCpuLimit" not in executors[name]["container"]["resources"], "a CPU limit throttles"


def test_every_pod_sees_the_volumes_and_secrets_and_may_pull(compiled: Any) -> None:
    executors, settings = compiled
    assert settings.keys() == executors.keys()
    for one in settings.values():
        assert [v["mountPath"] for v in one["pvcMount"]] == ["/raw", "/scratch", "/reports"]
        assert one["pvcMount"][2]["subPath"] == "emoverse"
        assert one["secretAsEnv"][0]["secretName"] == "dvc-remote"
        keys = {k["secretKey"]: k["envVar"] for k in one["secretAsEnv"][0]["keyToEnv"]}
        assert keys == {"id": "AWS_ACCESS_KEY_ID", "key": "AWS_SECRET_ACCESS_KEY"}
        assert one["imagePullSecret"][0]["secretName"] == "registry-login"


def test_checkpoints_of_a_pod_that_goes_away_lie_on_a_volume(compiled: Any) -> None:
    env = {e["name"]: e["value"] for e in compiled[0]["exec-train"]["container"]["env"]}
    assert env["EMOVERSE_SCRATCH"] == "/scratch"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpus: {count: 1}", "unknown parameter 'gpus', did you mean 'gpu'"),
        ("gpu: {count: 0}", "'gpu.count': Input should be greater than or equal to 1"),
        ("train: {memory: lots}", "'train.memory'"),
        ("train: {tolerations: [{key: a, operator: exists}]}", "'train.tolerations.0.operator'"),
        ("volumes: [{claim: raw, path: raw}]", "'volumes.0.path'"),
        ("secrets: [{name: s, value: hunter2}]", "unknown parameter 'secrets.0.value'"),
        ("trainer: {folder: /x}", "trainer.folder names /x, which is not on any of the volumes"),
        ("trainer: {runtime: torch}", "'trainer.folder' is missing"),
        ("publish: /reports", "publish names /reports, which is not on any of the volumes"),
        ("volumes: [{claim: a, path: /rep}]\npublish: /reports", "is not on any of the volumes"),
        ("retries: {count: two}", "'retries.count'"),
        ("gpu: {steps: [trian]}", "'gpu.steps.0'"),
        ("train: {tolerations: [{effect: NoSchedule}]}", "Equal needs a key"),
        ("train: {tolerations: [{key: a, operator: Exists, value: b}]}", "Exists takes no value"),
        ("volumes: [{claim: a, path: /x}, {claim: b, path: /x/}]", "two volumes or secrets are mounted at /x"),
        ("secrets: [{name: s}]", "the secret 's' reaches no pod"),
        ("gpu: [", "not valid YAML"),
        ("workspace: {size: 0.5TB}", "'workspace.size'"),
        ("workspace: {size: 9Gi, access_modes: [Many]}", "'workspace.access_modes.0'"),
        ("data: {env: {AWS_SECRET_ACCESS_KEY: x}}", "data.env contains the value of AWS_SECRET_ACCESS_KEY, which any"),
        ("train: {env: {HF_TOKEN: x}}", "put it into a Kubernetes secret, and name that under `secrets`"),
        ('train: {cpu: "4", cpu_limit: 500m}', "train.cpu 4 is more than its limit 500m"),
        ("security_context: {user: -1}", "'security_context.user'"),
        ("- gpu", "not a mapping"),
    ],
)
def test_a_profile_with_a_fault_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError) as caught:
        load_cluster(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_more_gpus_than_a_pod_gets_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["compile", "--params", str(REPO / "params.yaml"), "--out", str(tmp_path / "p.yaml")]
    assert main([*words, "--cluster", str(EXAMPLE), "--set", "train.gpus=4"]) == 2
    assert "stage1.gpus: wants 4 GPUs, but the cluster profile gives a pod 1; set gpu.count" in capsys.readouterr().err


def test_a_stage_on_several_nodes_waits_without_a_gpu_and_tells_its_nodes_what_they_get(tmp_path: Path) -> None:
    words = ["compile", "--params", str(REPO / "params.yaml"), "--out", str(tmp_path / "p.yaml")]
    assert main([*words, "--cluster", str(EXAMPLE), "--set", "stage2.nodes=2"]) == 0
    pipeline, platform = yaml.safe_load_all((tmp_path / "p.yaml").read_text("utf-8"))
    executors = pipeline["deploymentSpec"]["executors"]
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    one, several = (executors[name]["container"] for name in ("exec-train", "exec-train-2"))
    assert one["image"] == several["image"]
    assert "accelerator" in one["resources"]
    assert "accelerator" not in several["resources"]
    assert several["resources"]["resourceMemoryRequest"] == "16Gi"
    assert "nodeSelector" not in settings["exec-train-2"]
    assert "/scratch" in [volume["mountPath"] for volume in settings["exec-train-2"]["pvcMount"]]
    env = [{entry["name"]: entry["value"] for entry in container["env"]} for container in (one, several)]
    assert TEMPLATE not in env[0]
    described = json.loads(env[1][TEMPLATE])
    profile = load_cluster(EXAMPLE)
    assert profile.trainer is not None
    assert described == {"folder": "/scratch", "job": train_job_template(profile, profile.trainer, several["image"])}


def test_several_nodes_without_kubeflow_trainer_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--params", str(REPO / "params.yaml"), "--set", "train.nodes=2"]
    assert main(["compile", *words, "--out", str(tmp_path / "p.yaml")]) == 2
    assert "stage1.nodes: is 2, but the cluster profile has no `trainer`; describe" in capsys.readouterr().err
    assert main(["run-local", *words, "--root", str(tmp_path)]) == 2
    assert "stage1.nodes: is more than 1, which needs a cluster with Kubeflow Trainer" in capsys.readouterr().err


def test_a_submission_on_several_nodes_looks_for_kubeflow_trainer_first(tmp_path: Path) -> None:
    params, profile = load_params(REPO / "params.yaml", {"stage2.nodes": 2}), load_cluster(EXAMPLE)
    with kubernetes(tmp_path) as cluster:
        assert check_trainer(params, profile, "").startswith("Kubeflow Trainer: ClusterTrainingRuntime torch-distribut")
        assert check_trainer(load_params(REPO / "params.yaml"), profile, "") == ""
        cluster.trainer = False
        with pytest.raises(UserError, match=r"has no Kubeflow Trainer.*; --unchecked trainer if kubectl uses another"):
            check_trainer(params, profile, "")
        Path(os.environ["KUBECONFIG"]).write_text("{}", "utf-8")
        assert "not checked (no Kubernetes cluster is known here" in check_trainer(params, profile, "")


@pytest.mark.parametrize("spec", ["file:reasons.jsonl", "endpoint:/home/me/judge.json", "file:/rawdata/reasons.jsonl"])
def test_a_file_of_reasons_that_no_pod_would_find_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, spec: str
) -> None:
    words = ["compile", "--params", str(REPO / "params.yaml"), "--out", str(tmp_path / "p.yaml")]
    assert main([*words, "--cluster", str(EXAMPLE), "--set", f"amt.reasons={spec}"]) == 2
    problem = f"amt.reasons: names the file {spec.partition(':')[2]}, which no pod would find"
    assert f"{problem} (mounted volumes: /raw, /scratch, /reports)" in capsys.readouterr().err
    assert not (tmp_path / "p.yaml").exists()
    assert main([*words, "--cluster", str(EXAMPLE), "--set", "amt.reasons=file:/raw/reasons.jsonl"]) == 0
    assert main([*words, "--set", "amt.reasons=rules"]) == 0


def test_a_workspace_is_made_for_the_run_and_told_to_the_steps_that_read_raw_corpora(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("workspace: {size: 9Gi, access_modes: [ReadWriteMany]}\n", "utf-8")
    words = ["compile", "--params", str(REPO / "params.yaml"), "--out", str(tmp_path / "p.yaml"), "--shards", "2"]
    assert main([*words, "--cluster", str(tmp_path / "cluster.yaml")]) == 0
    pipeline, platform = yaml.safe_load_all((tmp_path / "p.yaml").read_text("utf-8"))
    made = platform["platforms"]["kubernetes"]["pipelineConfig"]["workspace"]
    assert made == {"size": "9Gi", "kubernetes": {"pvcSpecPatch": {"accessModes": ["ReadWriteMany"]}}}
    inputs = pipeline["root"]["inputDefinitions"]["parameters"]
    assert inputs["raw_volume"]["defaultValue"] == "/kfp-workspace"  # what Kubeflow looks for in a task's parameters
    readers = {n for n, t in tasks_of(pipeline).items() if "volume" in t.get("inputs", {}).get("parameters", {})}
    assert readers == {"fetch", "fetch-2", "import-base-model", "validate-part", "validate-join"}


def test_a_profile_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["compile", "--params", str(REPO / "params.yaml"), "--out", str(tmp_path / "p.yaml")]
    assert main([*words, "--cluster", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "p.yaml").exists()
