"""Other pipelines from the same wiring: shards, a given model, an original InternVL2, a sweep over seeds."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from emoverse.config import load_params
from emoverse.errors import UserError
from pipelines.cluster import Cluster, Retries, Volume
from pipelines.options import PipelineOptions
from pipelines.pipeline import compile_to
from tests.factories.kubeflow import groups_of, tasks_of

REPO = Path(__file__).resolve().parents[2]


def compiled(folder: Path, options: PipelineOptions) -> dict[str, Any]:
    compile_to(folder / "p.yaml", load_params(REPO / "params.yaml"), base=REPO, options=options)
    return dict(next(iter(yaml.safe_load_all((folder / "p.yaml").read_text("utf-8")))))


def producers(task: dict[str, Any]) -> set[str]:
    return {one["taskOutputArtifact"]["producerTask"] for one in task["inputs"]["artifacts"].values()
            if "taskOutputArtifact" in one}  # fmt: skip


def test_steps_that_may_be_preempted_are_tried_again_after_ever_longer_waits(tmp_path: Path) -> None:
    tasks = tasks_of(compiled(tmp_path, PipelineOptions()))
    policy = {"maxRetryCount": 3, "backoffDuration": "60s", "backoffFactor": 2.0, "backoffMaxDuration": "900s"}
    assert {name for name, task in tasks.items() if "retryPolicy" in task} == {
        "fetch",
        "fetch-2",
        "train",
        "train-2",
        "evaluate",
    }
    assert all(task.get("retryPolicy", policy) == policy for task in tasks.values())
    assert tasks_of(compiled(tmp_path, PipelineOptions(shards=2)))["validate-part"]["retryPolicy"] == policy
    without = tasks_of(compiled(tmp_path, PipelineOptions(cluster=Cluster(retries=Retries(count=0)))))
    assert not any("retryPolicy" in task for task in without.values())


def test_the_end_of_a_run_is_told_whatever_became_of_it(tmp_path: Path) -> None:
    assert "finish" not in tasks_of(compiled(tmp_path, PipelineOptions()))
    cluster = Cluster(volumes=(Volume(claim="c", path="/reports"),), publish="/reports")
    tasks = tasks_of(compiled(tmp_path, PipelineOptions(cluster=cluster, revision="abc")))
    assert set(tasks["publish"]["cachingOptions"]) == set(), "its parameters differ in each run"
    end = tasks["finish"]
    assert end["inputs"]["parameters"]["revision"] == {"runtimeValue": {"constant": "abc"}}
    assert end["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert "enableCache" not in end["cachingOptions"]


def test_shards_are_validated_apart_and_joined_in_each_corpus(tmp_path: Path) -> None:
    groups = groups_of(compiled(tmp_path, PipelineOptions(shards=3)))
    (corpus,) = (tasks for tasks in groups.values() if "validate-join" in tasks)
    (name,) = (name for name, task in corpus.items() if "parameterIterator" in task)
    assert yaml.safe_load(corpus[name]["parameterIterator"]["items"]["raw"]) == ["1/3", "2/3", "3/3"]
    assert producers(corpus["validate-join"]) == {"fetch", name}
    assert "validate" not in corpus
    assert "validate-part" in groups["comp-" + name]


def test_no_stage_is_trained_before_its_rows_were_counted(tmp_path: Path) -> None:
    tasks = tasks_of(compiled(tmp_path, PipelineOptions()))
    assert "budget" in tasks["train"]["dependentTasks"]
    assert "train" in tasks["train-2"]["dependentTasks"]
    given = tasks_of(compiled(tmp_path, PipelineOptions(start="stage1", model="s3://models/stage1")))
    assert "budget" in given["train"]["dependentTasks"]
    assert given["budget"]["inputs"]["parameters"]["stage1"] == {"runtimeValue": {"constant": {}}}
    sweep = tasks_of(compiled(tmp_path, PipelineOptions(seeds=(1, 2))))
    first = [task for task in sweep.values() if task["taskInfo"]["name"].startswith("train stage1")]
    assert len(first) == 2
    assert all("budget" in task["dependentTasks"] for task in first)


def test_a_given_model_takes_the_place_of_stage_1(tmp_path: Path) -> None:
    pipeline = compiled(tmp_path, PipelineOptions(start="stage1", model="s3://models/stage1"))
    tasks = tasks_of(pipeline)
    assert "base-model" not in tasks
    assert "train-2" not in tasks
    assert tasks["train"]["taskInfo"]["name"] == "train stage2"
    assert "importer" in producers(tasks["train"])
    assert pipeline["deploymentSpec"]["executors"]["exec-importer"]["importer"]["artifactUri"] == {
        "constant": "s3://models/stage1"
    }
    assert set(tasks["report"]["inputs"]["artifacts"]) == {"validated", "amt", "base", "stage2", "scores", "onnx"}


def test_an_original_internvl2_is_converted_and_trained_in_both_stages(tmp_path: Path) -> None:
    tasks = tasks_of(compiled(tmp_path, PipelineOptions(start="convert", model="s3://models/InternVL2-2B/")))
    assert producers(tasks["convert"]) == {"importer"}
    assert "convert" in producers(tasks["train"])
    assert "train" in producers(tasks["train-2"])
    assert "base-model" not in tasks


def test_a_sweep_trains_and_scores_once_a_seed_and_compares(tmp_path: Path) -> None:
    tasks = tasks_of(compiled(tmp_path, PipelineOptions(seeds=(1, 2, 3), shards=2)))
    names = sorted(task["taskInfo"]["name"] for task in tasks.values())
    of_a_seed = ("evaluate", "train stage1", "train stage2")
    assert [n for n in names if "seed " in n] == [f"{name} seed {seed}" for name in of_a_seed for seed in (1, 2, 3)]
    seeds = [
        t["inputs"]["parameters"]["overrides"] for t in tasks.values() if t["taskInfo"]["name"].startswith("train")
    ]
    assert sorted(one["runtimeValue"]["constant"]["seed"] for one in seeds) == [1, 1, 2, 2, 3, 3]
    assert set(tasks["compare-seeds"]["inputs"]["artifacts"]) == {"scores_1", "scores_2", "scores_3"}
    assert len(producers(tasks["compare-seeds"])) == 3
    assert not {"export", "report"} & set(tasks)
    assert sum(name.startswith("build-amt") for name in tasks) == 1, "what the seeds share is made once"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": "stage1"}, "training starts from stage1"),
        ({"model": "s3://models/stage1"}, "but a model is given"),
        ({"shards": 0}, "0 is not a number of shards"),
        ({"seeds": (7,)}, "two to 8 different seeds"),
        ({"seeds": tuple(range(9))}, "two to 8 different seeds"),
        ({"seeds": (7, 7)}, "two to 8 different seeds"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        PipelineOptions(**options)
