"""The compiled pipeline is the code's, is wired as dvc.yaml is, and gives Kubeflow's cache all it needs."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from emoverse.artifacts.digests import code_digest
from emoverse.cli.__init__ import main
from emoverse.compat.kfp import whole_numbers
from emoverse.config import TINY, BaseModelParams, CorpusParams, Params, load_params, parse
from emoverse.errors import UserError
from pipelines.options import SECTIONS, STEPS, PipelineOptions, default_arguments, local_arguments
from pipelines.pipeline import compile_to
from pipelines.verify import upstream
from tests.factories.kubeflow import COMPILED, tasks_of

REPO = Path(__file__).resolve().parents[2]
# What each task reads: sections of params.yaml, digest of code, upstream tasks. The cache sees these and nothing else.
EXPECTED = {
    "fetch": ({"raw_volume"}, None, set()),  # the MD5 it is given decides its result, not its code
    "validate": ({"media", "validation", "raw_volume"}, "code_validate", {"fetch"}),
    "build-amt": ({"amt"}, "code_build_amt", {"for-loop-1"}),
    "base-model": ({"base_model", "media"}, "code_base_model", set()),
    "budget": ({"media", "stage1", "stage2"}, "code_budget", {"base-model", "build-amt"}),
    "train": ({"stage1"}, "code_train", {"base-model", "build-amt", "for-loop-1"}),
    "train-2": ({"stage2"}, "code_train", {"base-model", "train", "build-amt", "for-loop-1"}),
    "evaluate": ({"evaluate"}, "code_evaluate", {"train-2", "build-amt", "for-loop-1"}),
    "export": ({"export"}, "code_export", {"train-2", "build-amt", "for-loop-1", "evaluate"}),
    "report": (
        set(),
        "code_report",
        {"base-model", "train", "train-2", "build-amt", "for-loop-1", "evaluate", "export"},
    ),
}


@pytest.fixture(scope="module")
def params() -> Params:
    """Return the sample's parameters, but for the base: a tiny model that is trained in the run."""
    return load_params(REPO / "params.yaml", {"base_model.source": TINY})


@pytest.fixture(scope="module")
def compiled(params: Params, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("compiled") / "emoverse.yaml"
    compile_to(path, params, base=REPO)
    return dict(yaml.safe_load(path.read_text("utf-8")))


def without_presets(compiled: dict[str, Any]) -> dict[str, Any]:
    """Leave out the preset parameters: they follow params.yaml, which anyone may change."""
    copy = json.loads(json.dumps(compiled))
    for parameter in copy["root"]["inputDefinitions"]["parameters"].values():
        parameter.pop("defaultValue", None)
    return dict(copy)


def test_the_committed_pipeline_is_the_one_the_code_compiles_to(tmp_path: Path) -> None:
    golden = yaml.safe_load(COMPILED.read_text("utf-8"))
    compile_to(tmp_path / "p.yaml", load_params(REPO / "params.yaml"), base=REPO)
    compiled = yaml.safe_load((tmp_path / "p.yaml").read_text("utf-8"))
    assert without_presets(golden) == without_presets(compiled), "run `emoverse compile` and commit the result"


def test_the_presets_of_the_committed_pipeline_are_valid_parameters() -> None:
    golden = yaml.safe_load(COMPILED.read_text("utf-8"))["root"]["inputDefinitions"]["parameters"]
    tree = whole_numbers({name: golden[name]["defaultValue"] for name in SECTIONS})
    corpora = {one["corpus"]: {"root": one["root"]} for one in golden["corpora"]["defaultValue"]}
    parse(Params, {**tree, "corpora": corpora}, place="pipelines/emoverse.yaml")


@pytest.mark.parametrize("task", EXPECTED)
def test_each_task_reads_exactly_what_its_result_depends_on(compiled: dict[str, Any], task: str) -> None:
    sections, code, upstream = EXPECTED[task]
    one = tasks_of(compiled)[task]
    parameters = one["inputs"].get("parameters", {}).values()
    read = {p["componentInputParameter"] for p in parameters if "componentInputParameter" in p}
    read = {name.removeprefix("pipelinechannel--") for name in read}
    assert read - {name for name in read if name.startswith("corpora-loop-item")} == sections | (
        {code} if code else set()
    )
    artifacts = one["inputs"].get("artifacts", {}).values()
    assert {a["taskOutputArtifact"]["producerTask"] for a in artifacts} == upstream


@pytest.mark.parametrize("task", EXPECTED)
def test_every_task_may_be_taken_from_the_cache(compiled: dict[str, Any], task: str) -> None:
    assert tasks_of(compiled)[task]["cachingOptions"] == {"enableCache": True}


def test_pods_that_need_no_weights_load_none(compiled: dict[str, Any]) -> None:
    for task in ("budget", "report"):
        read = {one["taskOutputArtifact"]["producerTask"]: one["taskOutputArtifact"]["outputArtifactKey"]
                for one in tasks_of(compiled)[task]["inputs"]["artifacts"].values()}  # fmt: skip
        models = {key for producer, key in read.items() if producer in ("base-model", "train", "train-2", "export")}
        assert models == {"without_weights"}, task


def test_kubeflow_and_dvc_give_each_step_the_same_sections(compiled: dict[str, Any]) -> None:
    stages = yaml.safe_load((REPO / "dvc.yaml").read_text("utf-8"))["stages"]
    names = {"train": "stage1", "train-2": "stage2"}
    for task, (sections, _, _) in EXPECTED.items():
        if task in ("fetch", "budget"):  # on one machine DVC's own work, and what train begins with
            continue
        stage = stages[names.get(task, task)]
        declared = {name for name in stage.get("do", stage).get("params", []) if isinstance(name, str)}
        # which corpora there are is Kubeflow's loop; what the stages share is in each stage's text
        assert declared - {"corpora", "train"} == sections - {"raw_volume"}, task


def test_no_package_is_installed_when_a_step_runs(compiled: dict[str, Any]) -> None:
    executors = compiled["deploymentSpec"]["executors"]
    commands = [" ".join(e["container"]["command"]) for e in executors.values() if "container" in e]
    assert len(commands) == len(EXPECTED)
    assert not any("pip install" in command for command in commands)


def test_the_image_may_be_given_by_digest(tmp_path: Path) -> None:
    image = "example.org/emoverse-python@sha256:" + "0" * 64
    words = [
        "compile",
        "--params",
        str(REPO / "params.yaml"),
        "--out",
        str(tmp_path / "p.yaml"),
        "--image-data",
        image,
        "--image-train",
        image,
    ]
    assert main(words) == 0
    executors = yaml.safe_load((tmp_path / "p.yaml").read_text("utf-8"))["deploymentSpec"]["executors"]
    assert {e["container"]["image"] for e in executors.values() if "container" in e} == {image}
    variables = [one for e in executors.values() for one in e["container"]["env"]]
    assert variables == [{"name": "EMOVERSE_IMAGE", "value": image}] * len(executors), "artifacts name the image"


def test_a_name_that_kubeflow_does_not_take_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "--params", str(REPO / "params.yaml"), "--out", str(tmp_path)]) == 2
    assert "give --out a name that ends in .yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("  meld:  {root", "  melt:  {root", "unknown corpus 'melt'; did you mean 'meld'?"),
        ("  mosei: {root: data/raw/sample/MOSEI}\n", "", "amt.stage1.corpora: there is no corpus 'mosei' to train on"),
        ("corpora: [meld, ecf, mosei]", "corpora: [meld, ecf, mosie]", "amt.stage1.corpora: unknown corpus 'mosie'"),
        ("tasks: {mer: 0.2,", "tasks: {mre: 0.2,", "amt.stage1.tasks: unknown task 'mre'; did you mean 'mer'?"),
        ("floor: {}", "floor: {mmer: {weighted_f1: 0.5}}", "export.floor: unknown task 'mmer'; did you mean 'mer'?"),
    ],
)
def test_a_name_that_a_step_would_refuse_hours_later_is_refused_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: str, after: str, words: str
) -> None:
    text = (REPO / "params.yaml").read_text("utf-8")
    assert before in text
    (tmp_path / "params.yaml").write_text(text.replace(before, after), "utf-8")
    for verb in (["compile", "--out", str(tmp_path / "p.yaml")], ["run-local", "--root", str(tmp_path / "runs")]):
        assert main([*verb, "--params", str(tmp_path / "params.yaml")]) == 2
        assert words in capsys.readouterr().err


def test_an_override_becomes_a_preset(tmp_path: Path) -> None:
    words = ["compile", "--params", str(REPO / "params.yaml"), "--out", str(tmp_path / "p.yaml")]
    assert main([*words, "--set", "stage1.seed=99"]) == 0
    inputs = yaml.safe_load((tmp_path / "p.yaml").read_text("utf-8"))["root"]["inputDefinitions"]["parameters"]
    assert inputs["stage1"]["defaultValue"]["seed"] == 99
    assert inputs["stage2"]["defaultValue"]["seed"] != 99


def test_no_secret_of_the_environment_gets_into_the_compiled_pipeline(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-4711")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-4711")
    compile_to(tmp_path / "p.yaml", params, base=REPO)
    text = (tmp_path / "p.yaml").read_text("utf-8")
    assert "canary" not in text
    assert os.path.expanduser("~") not in text  # noqa: PTH111
    assert str(REPO) not in text


def test_presets_name_each_corpus_by_the_md5_of_its_dvc_file(params: Params, tmp_path: Path) -> None:
    (tmp_path / "MELD.dvc").write_text("outs:\n- md5: feed.dir\n  path: MELD\n", "utf-8")
    corpora = {"meld": CorpusParams(root="MELD"), "ecf": CorpusParams(root="ECF")}
    found = default_arguments(replace(params, corpora=corpora), tmp_path)
    assert found.corpora == [
        {"corpus": "meld", "root": "MELD", "md5": "feed.dir", "remote": ""},
        {"corpus": "ecf", "root": "ECF", "md5": "", "remote": ""},
    ]


def test_a_local_run_measures_raw_corpora_and_code(params: Params, tmp_path: Path) -> None:
    (tmp_path / "MELD").mkdir()
    (tmp_path / "MELD/a.csv").write_text("1", "utf-8")
    some = replace(params, corpora={"meld": CorpusParams(root="MELD")})
    one = local_arguments(some, tmp_path)
    (tmp_path / "MELD/a.csv").write_text("2", "utf-8")
    two = local_arguments(some, tmp_path)
    assert one.corpora[0]["root"] == str(tmp_path / "MELD")
    assert re.fullmatch(r"[0-9a-f]{32}\.dir", one.corpora[0]["md5"])
    assert one.corpora[0]["md5"] != two.corpora[0]["md5"]
    assert one.code == two.code == {step: code_digest(step) for step in STEPS}
    with pytest.raises(UserError, match="the raw corpus 'meld' is not here"):
        local_arguments(some, tmp_path / "elsewhere")


def test_internvl2_as_the_base_is_fetched_by_its_md5_and_adopted(params: Params, tmp_path: Path) -> None:
    (tmp_path / "InternVL2-4B").mkdir()
    (tmp_path / "InternVL2-4B/config.json").write_text("{}", "utf-8")
    (tmp_path / "InternVL2-4B.dvc").write_text("outs:\n- md5: beef.dir\n  path: InternVL2-4B\n", "utf-8")
    real = replace(params, base_model=BaseModelParams(source="InternVL2-4B"))
    found = default_arguments(real, tmp_path)
    assert (found.weights["md5"], found.weights["root"]) == ("beef.dir", "InternVL2-4B")
    assert local_arguments(replace(real, corpora={}), tmp_path).weights["root"] == str(tmp_path / "InternVL2-4B")
    with pytest.raises(UserError, match="elsewhere/InternVL2-4B: the base model's checkpoint is missing"):
        local_arguments(replace(real, corpora={}), tmp_path / "elsewhere")
    compile_to(tmp_path / "p.yaml", real, base=tmp_path)
    whole = yaml.safe_load((tmp_path / "p.yaml").read_text("utf-8"))
    tasks = tasks_of(whole)
    assert "base-model" not in tasks
    assert len(tasks["import-base-model"]["dependentTasks"]) == 1
    assert tasks["train"]["inputs"]["artifacts"]["model"]["taskOutputArtifact"]["producerTask"] == "import-base-model"
    assert whole["root"]["inputDefinitions"]["parameters"]["weights_md5"]["defaultValue"] == "beef.dir"


def test_sections_are_typed_dictionaries(compiled: dict[str, Any]) -> None:
    inputs = compiled["root"]["inputDefinitions"]["parameters"]
    assert {inputs[name]["parameterType"] for name in SECTIONS} == {"STRUCT"}
    assert inputs["corpora"]["parameterType"] == "LIST"


def test_no_artifact_comes_by_two_inputs_and_each_task_waits_for_what_it_reads(compiled: dict[str, Any]) -> None:
    tasks = tasks_of(compiled)
    waits = {name: task.get("dependentTasks", []) for name, task in tasks.items()}
    for name, task in tasks.items():
        read = [one["taskOutputArtifact"] for one in task["inputs"].get("artifacts", {}).values()
                if "taskOutputArtifact" in one]  # fmt: skip
        assert len({(one["producerTask"], one["outputArtifactKey"]) for one in read}) == len(read), name
        needed = {one["producerTask"] for one in read} | ({"budget"} if name == "train" else set())
        assert needed <= upstream(waits, waits[name]), name
        # The UI draws an arrow for each: none that another implies.
        for direct in waits[name]:
            assert direct not in upstream(waits, set(waits[name]) - {direct}), (name, direct)


def test_the_steps_are_in_the_first_view_and_the_loop_has_a_name(compiled: dict[str, Any]) -> None:
    shown = {task["taskInfo"]["name"] for task in compiled["root"]["dag"]["tasks"].values()}
    assert shown == {
        "corpora", "build-amt", "base-model", "budget", "train stage1", "train stage2", "evaluate", "export", "report",
    }  # fmt: skip


def test_nothing_that_a_later_cache_key_reads_changes_with_the_commit(params: Params, tmp_path: Path) -> None:
    specs = []
    for revision in ("a" * 40, "b" * 40):
        compile_to(tmp_path / "p.yaml", params, base=REPO, options=PipelineOptions(revision=revision))
        specs.append(yaml.safe_load((tmp_path / "p.yaml").read_text("utf-8")))
        assert revision in specs[-1]["pipelineInfo"].pop("description")
    assert specs[0] == specs[1]


def drivers(spec: dict[str, Any], dag: dict[str, Any]) -> int:
    """Return how many driver pods the longest chain of a group's tasks starts one after another."""
    longest: dict[str, int] = {}
    waiting = dict(dag["tasks"])
    while waiting:
        for name in [n for n, t in waiting.items() if not set(t.get("dependentTasks", [])) & waiting.keys()]:
            task = waiting.pop(name)
            component = spec["components"][task["componentRef"]["name"]]
            own = 1 + ("parameterIterator" in task) + (drivers(spec, component["dag"]) if "dag" in component else 0)
            longest[name] = own + max((longest[n] for n in task.get("dependentTasks", [])), default=0)
    return max(longest.values())


def test_the_levels_of_drivers_are_what_the_docs_say(compiled: dict[str, Any]) -> None:
    levels = 1 + drivers(compiled, compiled["root"]["dag"])  # the root has one, too
    assert f"are {levels} drivers one after another" in (REPO / "docs/kubeflow.md").read_text("utf-8")
