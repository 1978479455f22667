"""The verifier finds each fault that Kubeflow's server would refuse or fail on, and passes every variant of ours."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl

from emoverse.compat.kfp import WORKSPACE
from emoverse.config import BaseModelParams, load_params
from emoverse.errors import UserError
from pipelines.cluster import Cluster, SecurityContext, Volume, Workspace, amount_of
from pipelines.options import PipelineOptions
from pipelines.pipeline import compile_to
from pipelines.verify import faults, verify

REPO = Path(__file__).resolve().parents[2]
PROFILE = """
gpu: {count: 2}
data: {cpu: 500m, cpu_limit: "2", memory: 2Gi}
train: {cpu: "4", memory: 8Gi, memory_limit: 16Gi, shared_memory: 1Gi, threads: 1, env: {EMOVERSE_SCRATCH: /scratch}}
volumes: [{claim: raw, path: /raw}, {claim: reports, path: /reports, folder: emoverse}]
workspace: {size: 9Gi, access_modes: [ReadWriteMany]}
secrets: [{name: remote, env: {key: AWS_SECRET_ACCESS_KEY}}, {name: ssh, path: /ssh}]
security_context: {user: 10001, group: 10001}
publish: /reports
"""
Documents = list[dict[str, Any]]
Plant = Callable[[Documents], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    """Return a pipeline with everything in it: an exit handler, loops in loops, a workspace, volumes, secrets."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "cluster.yaml").write_text(PROFILE, "utf-8")
    from pipelines.cluster import load_cluster

    options = PipelineOptions(shards=2, cluster=load_cluster(folder / "cluster.yaml"), revision="abc")
    compile_to(folder / "p.yaml", load_params(REPO / "params.yaml"), base=REPO, options=options)
    return list(yaml.safe_load_all((folder / "p.yaml").read_text("utf-8")))


def group(documents: Documents, task: str) -> dict[str, Any]:
    """Return the group (a component with tasks) that holds a task."""
    components = (documents[0]["root"], *documents[0]["components"].values())
    return next(c for c in components if task in c.get("dag", {}).get("tasks", {}))


def task(documents: Documents, name: str) -> dict[str, Any]:
    return dict(group(documents, name)["dag"]["tasks"])[name]


def artifacts(documents: Documents, name: str) -> dict[str, Any]:
    return dict(task(documents, name)["inputs"]["artifacts"])


def loop(documents: Documents) -> dict[str, Any]:
    """Return the loop over shards, whose items are literal."""
    every = (c.get("dag", {}).get("tasks", {}) for c in documents[0]["components"].values())
    return next(
        t for tasks in every for t in tasks.values() if "raw" in t.get("parameterIterator", {}).get("items", {})
    )


def container(documents: Documents, name: str) -> dict[str, Any]:
    return dict(documents[0]["deploymentSpec"]["executors"][f"exec-{name}"])["container"]


def pod(documents: Documents, name: str = "train") -> dict[str, Any]:
    return dict(documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"])[f"exec-{name}"]


def workspace(documents: Documents) -> dict[str, Any]:
    return dict(documents[1]["platforms"]["kubernetes"]["pipelineConfig"])["workspace"]


def parameter(documents: Documents, name: str, key: str) -> dict[str, Any]:
    return dict(task(documents, name)["inputs"]["parameters"])[key]


def _add_artifact_type(d: Documents) -> None:
    read = d[0]["components"]["comp-build-amt"]["inputDefinitions"]["artifacts"]
    read["validated"]["artifactType"]["schemaTitle"] = "system.Model"


def _cycle(d: Documents) -> None:
    task(d, "build-amt")["dependentTasks"] = ["report"]


# rule -> (who is named, what to break)
PLANTED: list[tuple[str, str, Plant]] = [
    ("schema-version", "", lambda d: d[0].update(schemaVersion="2.0.0")),
    ("pipeline-name", "", lambda d: d[0]["pipelineInfo"].update(name="EmoVerse")),
    ("root", "", lambda d: d[0]["root"].pop("dag")),
    ("one-pipeline-per-file", "", lambda d: d.append(copy.deepcopy(d[0]))),
    ("workflow-size", "", lambda d: d[0]["pipelineInfo"].update(description="x" * 1_000_000)),
    ("argument-size", "", lambda d: d[0]["root"]["inputDefinitions"]["parameters"]["amt"]["defaultValue"].update(
        system="x" * 200_000)),
    ("argument-size", "comp-train", lambda d: container(d, "train")["command"].append("x" * 200_000)),
    ("artifact-twice", "train", lambda d: artifacts(d, "train").update(base=artifacts(d, "train")["model"])
        or task(d, "train")["inputs"]["artifacts"].update(base=artifacts(d, "train")["model"])),
    ("artifact-twice", "report", lambda d: task(d, "report")["inputs"]["artifacts"].update(
        stage1=artifacts(d, "report")["stage2"])),
    ("parent-input", "fetch", lambda d: parameter(d, "fetch", "volume").update(
        componentInputParameter="loop-item-param-2")),
    ("parent-input", "validate-part", lambda d: artifacts(d, "validate-part")["raw"].update(
        componentInputArtifact="elsewhere")),
    ("producer", "evaluate", lambda d: artifacts(d, "evaluate")["model"]["taskOutputArtifact"].update(
        outputArtifactKey="nothing")),
    ("producer", "evaluate", lambda d: artifacts(d, "evaluate")["model"]["taskOutputArtifact"].update(
        producerTask="nobody")),
    ("producer", "evaluate", lambda d: task(d, "evaluate")["dependentTasks"].remove("train-2")),
    ("missing-input", "evaluate", lambda d: task(d, "evaluate")["inputs"]["artifacts"].pop("model")),
    ("missing-input", "evaluate", lambda d: task(d, "evaluate")["inputs"]["parameters"].pop("params")),
    ("unknown-input", "evaluate", lambda d: task(d, "evaluate")["inputs"]["parameters"].update(
        more={"runtimeValue": {"constant": 1}})),
    ("unknown-input", "evaluate", lambda d: task(d, "evaluate")["inputs"]["artifacts"].update(
        more=artifacts(d, "evaluate")["model"])),
    ("parameter-type", "train", lambda d: parameter(d, "train", "overrides")["runtimeValue"].update(constant="seed")),
    ("parameter-type", "evaluate", lambda d: parameter(d, "evaluate", "params").update(
        componentInputParameter=parameter(d, "evaluate", "code_digest")["componentInputParameter"])),
    ("parameter-type", "", lambda d: d[0]["root"]["inputDefinitions"]["parameters"]["corpora"].update(
        defaultValue="meld")),
    ("artifact-type", "build-amt", _add_artifact_type),
    ("artifact-type", "build-amt", lambda d: d[0]["components"]["comp-build-amt"]["inputDefinitions"]["artifacts"][
        "validated"].pop("isArtifactList")),
    ("list-into-loop", "", lambda d: loop(d)["inputs"].update(artifacts={"all": {"componentInputArtifact": "all"}})
        or group(d, "fetch").setdefault("inputDefinitions", {}).setdefault("artifacts", {}).update(
            all={"artifactType": {"schemaTitle": "system.Dataset"}, "isArtifactList": True})),
    ("loop-items", "", lambda d: loop(d)["parameterIterator"]["items"].update(raw="[]")),
    ("loop-items", "", lambda d: loop(d)["parameterIterator"].update(items={"inputParameter": "nothing"})),
    ("loop-items", "", lambda d: loop(d).update(artifactIterator={})),
    ("dependencies", "", _cycle),
    ("dependencies", "evaluate", lambda d: task(d, "evaluate")["dependentTasks"].append("nobody")),
    ("component", "evaluate", lambda d: d[0]["components"].pop("comp-evaluate")),
    ("executor", "comp-evaluate", lambda d: d[0]["deploymentSpec"]["executors"].pop("exec-evaluate")),
    ("image", "comp-evaluate", lambda d: container(d, "evaluate").update(image="")),
    ("environment", "comp-evaluate", lambda d: container(d, "evaluate")["env"].append({"name": "A-B", "value": ""})),
    ("environment", "comp-evaluate", lambda d: container(d, "evaluate")["env"].extend(container(d, "evaluate")["env"])),
    ("cache-key", "comp-evaluate", lambda d: container(d, "evaluate")["env"].append(
        {"name": "EMOVERSE_REVISION", "value": "abc"})),
    ("cache-key", "evaluate", lambda d: parameter(d, "evaluate", "code_digest").update(
        {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}}) or parameter(d, "evaluate", "code_digest").pop(
        "componentInputParameter")),
    ("resources", "comp-train", lambda d: container(d, "train")["resources"].update(resourceMemoryLimit="1Gi")),
    ("resources", "comp-train", lambda d: container(d, "train")["resources"].update(resourceMemoryLimit="much")),
    ("ignored-retry", "", lambda d: loop(d).update(retryPolicy={"maxRetryCount": 3})),
    ("ignored-retry", "evaluate", lambda d: task(d, "evaluate").update(retryPolicy={})),
    ("exit-task", "finish", lambda d: task(d, "finish").update(dependentTasks=[])),
    ("final-status", "evaluate", lambda d: task(d, "evaluate")["inputs"]["parameters"].update(
        code_digest={"taskFinalStatus": {"producerTask": "train"}})),
    ("placeholder", "evaluate", lambda d: task(d, "evaluate")["inputs"]["parameters"].update(
        code_digest={"runtimeValue": {"constant": "{{$.inputs.parameters['gone']}}"}})),
    ("platform", "", lambda d: d[1]["platforms"].update(vertex={})),
    ("ignored-settings", "exec-gone", lambda d: d[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].update(
        {"exec-gone": {}})),
    ("volume", "exec-train", lambda d: pod(d)["pvcMount"][0].update(mountPath="")),
    ("volume", "exec-train", lambda d: pod(d)["pvcMount"][0].update(mountPath="/reports")),
    ("volume", "exec-train", lambda d: pod(d)["pvcMount"][0].update(mountPath=f"{WORKSPACE}/raw")),
    ("secret", "exec-train", lambda d: pod(d)["secretAsEnv"][0].update(keyToEnv=[])),
    ("workspace", "", lambda d: workspace(d).update(size="0.5TB")),
    ("workspace", "", lambda d: workspace(d)["kubernetes"]["pvcSpecPatch"].update(volumeMode="Block")),
    ("workspace", "", lambda d: d[1]["platforms"]["kubernetes"].pop("pipelineConfig")),
]  # fmt: skip


def test_a_whole_pipeline_has_no_fault(whole: Documents) -> None:
    assert faults(whole) == []


@pytest.mark.parametrize(("rule", "named", "plant"), PLANTED, ids=[f"{n}-{p[0]}" for n, p in enumerate(PLANTED)])
def test_a_planted_fault_is_found_by_its_rule(whole: Documents, rule: str, named: str, plant: Plant) -> None:
    broken = copy.deepcopy(whole)
    plant(broken)
    found = faults(broken)
    assert [f for f in found if f.rule == rule and f.task.endswith(named)], found


def test_at_least_fifteen_rules_have_a_planted_fault() -> None:
    assert len({rule for rule, _, _ in PLANTED}) >= 15


def test_an_artifact_that_comes_by_two_names_of_its_parent_is_recognised(tmp_path: Path) -> None:
    @dsl.component(base_image="python")
    def make(out: dsl.Output[dsl.Model]) -> None: ...

    @dsl.component(base_image="python")
    def read(one: dsl.Input[dsl.Model], two: dsl.Input[dsl.Model]) -> None: ...

    @dsl.pipeline
    def inner(first: dsl.Input[dsl.Model], second: dsl.Input[dsl.Model]) -> None:
        read(one=first, two=second)

    @dsl.pipeline(name="aliases")
    def outer() -> None:
        model = make().output
        inner(first=model, second=model)

    compiler.Compiler().compile(outer, str(tmp_path / "p.yaml"))
    found = {(f.rule, f.task) for f in faults(list(yaml.safe_load_all((tmp_path / "p.yaml").read_text("utf-8"))))}
    assert found == {("artifact-twice", "inner"), ("artifact-twice", "inner/read")}


def test_what_kfp_compiles_of_a_loop_over_dicts_in_an_exit_handler_is_refused(tmp_path: Path) -> None:
    @dsl.component(base_image="python")
    def step(seed: str) -> None: ...

    @dsl.component(base_image="python")
    def end() -> None: ...

    @dsl.pipeline(name="sweep")
    def sweep() -> None:
        with dsl.ExitHandler(end()), dsl.ParallelFor([{"seed": "1"}, {"seed": "2"}]) as item:
            step(seed=item.seed)

    compiler.Compiler().compile(sweep, str(tmp_path / "p.yaml"))
    found = faults(list(yaml.safe_load_all((tmp_path / "p.yaml").read_text("utf-8"))))
    assert {f.rule for f in found} == {"parent-input"}


def test_the_message_names_task_input_and_rule(whole: Documents) -> None:
    broken = copy.deepcopy(whole)
    task(broken, "evaluate")["inputs"]["artifacts"].pop("model")
    with pytest.raises(UserError, match=r"p\.yaml: .*task .*evaluate, input model: no artifact.*\[missing-input\]"):
        verify(broken, place="p.yaml")


def test_a_file_that_the_verifier_refuses_is_not_written(tmp_path: Path) -> None:
    cluster = Cluster(volumes=(Volume(claim="raw", path=f"{WORKSPACE}/raw"),))
    with pytest.raises(UserError, match=r"p\.yaml: .*is where Kubeflow mounts the run's workspace \[volume\]"):
        compile_to(tmp_path / "p.yaml", load_params(REPO / "params.yaml"), options=PipelineOptions(cluster=cluster))
    assert list(tmp_path.iterdir()) == []


STARTS: tuple[dict[str, Any], ...] = (
    {},
    {"start": "stage1", "model": "s3://m/stage1"},
    {"start": "convert", "model": "s3://m/InternVL2"},
)
CLUSTERS = {
    "plain": Cluster(),
    "workspace": Cluster(workspace=Workspace(size="9Gi", access_modes=("ReadWriteMany",))),
    "publish": Cluster(volumes=(Volume(claim="c", path="/reports"),), publish="/reports"),
    "user": Cluster(security_context=SecurityContext(user=10001), volumes=(Volume(claim="raw", path="/raw"),)),
}


FACTORS: list[list[Any]] = [[*range(len(STARTS))], [*CLUSTERS], [1, 3], [(), (5, 6, 7)], [True, False], [True, False]]


def covering_pairs() -> list[tuple[Any, ...]]:
    """Return combinations that contain every pair of two options' values, far fewer than all combinations."""
    pairs = {(i, a, j, b) for i, j in itertools.combinations(range(len(FACTORS)), 2)
             for a in FACTORS[i] for b in FACTORS[j]}  # fmt: skip
    rows = []
    while pairs:
        best = max(itertools.product(*FACTORS), key=lambda row: len(_pairs_of(row) & pairs))
        pairs -= _pairs_of(best)
        rows.append(best)
    return rows


def _pairs_of(row: tuple[Any, ...]) -> set[tuple[Any, ...]]:
    return {(i, row[i], j, row[j]) for i, j in itertools.combinations(range(len(row)), 2)}


@pytest.mark.parametrize("row", covering_pairs(), ids=str)
def test_every_pair_of_options_compiles_to_a_pipeline_without_faults(tmp_path: Path, row: tuple[Any, ...]) -> None:
    start, cluster, shards, seeds, cache, weights = row
    options = PipelineOptions(cluster=CLUSTERS[cluster], shards=shards, seeds=seeds, cache=cache, **STARTS[start])
    params = load_params(REPO / "params.yaml")
    if weights:
        params = replace(params, base_model=BaseModelParams(source="weights/InternVL2"))
    compile_to(tmp_path / "p.yaml", params, base=REPO, options=options)  # raises for a fault


@pytest.mark.parametrize(("text", "value"), [("500m", 0.5), ("2", 2), ("1Ki", 1024), ("3G", 3e9), ("16Gi", 2**34)])
def test_amounts_are_read_as_kubernetes_reads_them(text: str, value: float) -> None:
    assert amount_of(text) == value
