"""`emoverse plan`: which steps will run and why, equal to what then happens."""

import contextlib
import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from components import Images
from emoverse.artifacts.digests import fingerprints, parameters_unknown_to_run_cache
from emoverse.config import load_params, plain
from emoverse.errors import UserError
from emoverse.registry import STEPS
from pipelines.options import PipelineOptions, local_arguments
from pipelines.pipeline import compile_to
from pipelines.plan import EarlierRun, TaskKey, cache_keys, plan, plan_of_repro, summary
from tests.conftest import REPO

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep")  # inside DVC

# Stands in for a step: writes what it was made from, as a manifest does, and notes that it ran.
STEP = """
import hashlib, json, pathlib, sys
name, *outs = sys.argv[1:]
stages = json.loads(pathlib.Path("stages.json").read_text())
parts = []
lock = stages[name]
for dep in lock["deps"]:
    path = pathlib.Path(dep)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    parts += [file.read_text() for file in files if file.is_file()]
params = json.loads(pathlib.Path("params.yaml").read_text())
made_with = json.loads(pathlib.Path("data/fingerprints.json").read_text())
for key in lock["params"]:
    parts.append(json.dumps(params[key] if isinstance(key, str) else [made_with[one] for one in list(key.values())[0]]))
for out in outs:
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    pathlib.Path(out, "manifest.json").write_text(hashlib.sha256("".join(parts).encode()).hexdigest())
with open("ran.txt", "a") as log:
    log.write(name + "\\n")
"""


class Workspace:
    """The project's dvc.yaml over stand-ins for its steps."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.code = json.loads(json.dumps(fingerprints(plain(load_params(REPO / "params.yaml")), REPO)))
        shutil.copy2(REPO / "params.yaml", root)
        (root / "step.py").write_text(STEP, "utf-8")
        tree = yaml.safe_load((REPO / "dvc.yaml").read_text("utf-8"))
        stages = {}
        for name, stage in tree["stages"].items():
            body = stage.get("do", stage)
            title = f"{name}@${{key}}" if "do" in stage else name
            body["cmd"] = f"{sys.executable} -I -S step.py {title} {' '.join(map(str, body['outs']))}"
            keys = ("meld", "ecf", "mosei") if "do" in stage else ("",)
            for key in keys:
                text = json.dumps({"deps": body.get("deps", []), "params": body.get("params", [])})
                roots = {"${item.root}": f"data/raw/{key}", "${base_model.source}": "tiny.py", "${key}": key}
                for old, new in roots.items():
                    text = text.replace(old, new)
                stages[title.replace("${key}", key)] = json.loads(text)
        tree["stages"]["fingerprints"]["cmd"] = "cp next.json data/fingerprints.json"
        for key in ("metrics", "plots", "artifacts"):
            tree.pop(key, None)
        (root / "dvc.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
        (root / "stages.json").write_text(json.dumps(stages), "utf-8")
        (root / "tiny.py").write_text("tiny", "utf-8")
        for name in ("meld", "ecf", "mosei"):
            (root / "data/raw" / name).mkdir(parents=True)
            (root / "data/raw" / name / "clip").write_text(name, "utf-8")
        self.change(lambda params: [one.update(root=f"data/raw/{n}") for n, one in params["corpora"].items()])
        self.change(lambda params: params["base_model"].update(source="tiny.py"))
        with contextlib.chdir(root), Repo.init(".", no_scm=True):
            pass

    def change(self, edit: Callable[[Any], Any]) -> None:
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_text("utf-8"))
        edit(params)
        path.write_text(json.dumps(params), "utf-8")  # JSON is YAML, and quicker to read
        for name, made_with in self.code.items():
            made_with["parameters"] = parameters_unknown_to_run_cache(STEPS[name], params)

    def plan(self) -> dict[str, str]:
        now = {"params.yaml": yaml.safe_load((self.root / "params.yaml").read_text("utf-8")),
               "data/fingerprints.json": self.code}  # fmt: skip
        with contextlib.chdir(self.root), Repo(".") as repo:
            return {step.name: step.reason for step in plan_of_repro(self.root, now, repo.status())}

    def repro(self) -> set[str]:
        (self.root / "next.json").write_text(json.dumps(self.code), "utf-8")
        (self.root / "ran.txt").write_text("", "utf-8")
        with contextlib.chdir(self.root), Repo(".") as repo:
            repo.reproduce()
        return set((self.root / "ran.txt").read_text("utf-8").split())


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("plan"))
    with pytest.raises(UserError, match="nothing was run here yet"):
        made.plan()
    assert len(made.repro()) == 10
    return made


def parameter(section: str, key: str, value: Any) -> Callable[[Workspace], Any]:
    return lambda w: w.change(lambda params: params[section].update({key: value}))


def code(*steps: str, kind: str = "code") -> Callable[[Workspace], Any]:
    def edit(w: Workspace) -> None:
        for step in steps:
            before = w.code[step][kind]
            w.code[step][kind] = {**before, "new": "1"} if isinstance(before, dict) else f"{before}0"

    return edit


def raw(corpus: str) -> Callable[[Workspace], Any]:
    return lambda w: (w.root / "data/raw" / corpus / "clip").write_text(f"{corpus} changed", "utf-8")


PARAMS = yaml.safe_load((REPO / "params.yaml").read_text("utf-8"))
BASE_EPOCHS = PARAMS["base_model"]["epochs"]
# change -> the step that runs first, and why
CHANGES: dict[str, tuple[Callable[[Workspace], Any], str, str]] = {
    "nothing": (lambda w: None, "", ""),
    "epochs": (parameter("stage1", "epochs", 9), "stage1", f"stage1.epochs {PARAMS['stage1']['epochs']} -> 9"),
    "learning rate": (parameter("stage2", "learning_rate", 0.5), "stage2", "stage2.learning_rate"),
    "what the stages share": (parameter("train", "gpus", 2), "stage1", "train.gpus"),
    "frame size": (parameter("media", "size", 96), "validate@meld", "media.size 64 -> 96"),
    "frames": (parameter("media", "frames", 5), "base-model", "media.frames"),
    "checks": (parameter("validation", "min_duration", 0.3), "validate@ecf", "validation.min_duration"),
    "mixture": (parameter("amt", "seed", 8), "build-amt", "amt.seed 7 -> 8"),
    "base model": (parameter("base_model", "epochs", 4), "base-model", f"base_model.epochs {BASE_EPOCHS} -> 4"),
    "scores": (parameter("evaluate", "seed", 99), "evaluate", "evaluate.seed"),
    "graphs": (parameter("export", "compared", 3), "export", "export.compared"),
    "code of a step": (code("train"), "stage2", "code changed"),
    "code of the report": (code("report"), "report", "code changed"),
    "code of two steps": (code("evaluate", "export"), "evaluate", "code changed"),
    "a library": (code("export", kind="libraries"), "export", "libraries changed"),
    "a named file": (code("build-amt", kind="files"), "build-amt", "files changed"),
    "a corpus": (raw("meld"), "validate@meld", "data/raw/meld modified"),
    "another corpus": (raw("mosei"), "validate@mosei", "data/raw/mosei modified"),
    "the base model's source": (
        lambda w: (w.root / "tiny.py").write_text("other", "utf-8"), "base-model", "tiny.py modified"),
    "parameter and code": (
        lambda w: [parameter("amt", "seed", 9)(w), code("validate")(w)], "validate@meld", "code changed"),
    "nothing again": (lambda w: None, "", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_the_plan_for_dvc_repro_is_what_then_runs(workspace: Workspace, name: str) -> None:
    edit, first, reason = CHANGES[name]
    edit(workspace)
    planned = {step: why for step, why in workspace.plan().items() if why}
    assert workspace.repro() == planned.keys()
    if first:
        assert reason in planned[first]


def test_at_least_twenty_changes_were_tried() -> None:
    assert len(CHANGES) >= 20


def compiled(folder: Path, options: PipelineOptions) -> list[Any]:
    compile_to(folder / "p.yaml", load_params(REPO / "params.yaml"), base=REPO, options=options)
    return list(yaml.safe_load_all((folder / "p.yaml").read_text("utf-8")))


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], dict[str, Any]]:
    """Return a compiled pipeline and the arguments of a run of it."""
    folder = tmp_path_factory.mktemp("submitted")
    params = load_params(REPO / "params.yaml")
    for root in (*(corpus.root for corpus in params.corpora.values()), params.base_model.source):
        (folder / root).mkdir(parents=True)
        (folder / root / "clip").write_text(root, "utf-8")
    return compiled(folder, PipelineOptions()), local_arguments(params, folder).as_keywords()


def finished(keys: dict[str, TaskKey], *without: str) -> EarlierRun:
    return EarlierRun(keys, frozenset(keys.keys() - set(without)), dict.fromkeys(keys, 60.0))


def reasons(submitted: Any, change: Callable[[dict[str, Any]], Any], *earlier: EarlierRun) -> dict[str, str]:
    documents, arguments = submitted
    now = copy.deepcopy(arguments)
    change(now)
    before = earlier or (finished(cache_keys(documents, arguments)),)
    return {step.name: step.reason for step in plan(cache_keys(documents, now), before) if step.reason}


def test_a_changed_parameter_is_named_with_both_values_and_later_steps_with_what_they_follow(submitted: Any) -> None:
    epochs = f"stage1.epochs {PARAMS['stage1']['epochs']} -> 9"
    assert reasons(submitted, lambda a: a["stage1"].update(epochs=9)) == {
        "budget": epochs, "train stage1": epochs, "train stage2": "after train stage1",
        "evaluate": "after train stage2", "export": "after evaluate, train stage2",
        "report": "after evaluate, export, train stage1, train stage2",
    }  # fmt: skip


def test_changed_data_and_code_are_named(submitted: Any) -> None:
    found = reasons(submitted, lambda a: a["corpora"][0].update(md5="feed.dir"))
    assert found["fetch meld"].startswith("meld.md5 ")
    assert found["fetch meld"].endswith("-> feed.dir")
    assert "fetch ecf" not in found
    found = reasons(submitted, lambda a: a.update(code_evaluate="1" * 64))
    assert found["evaluate"].endswith("-> 111111111111...")
    assert found.keys() == {"evaluate", "export", "report"}


def test_nothing_runs_when_nothing_changed_and_all_when_nothing_was_run(submitted: Any) -> None:
    documents, arguments = submitted
    assert reasons(submitted, lambda a: None) == {}
    everything = plan(cache_keys(documents, arguments), [])
    assert {step.reason for step in everything} == {"not run before"}
    assert summary(everything) == f"{len(everything)} of {len(everything)} steps will run"


def test_what_failed_before_runs_again_and_an_older_run_counts_too(submitted: Any) -> None:
    documents, arguments = submitted
    keys = cache_keys(documents, arguments)
    failed = finished(keys, "train stage2", "evaluate", "export", "report")
    found = reasons(submitted, lambda a: None, failed)
    assert found["train stage2"] == "it did not finish before"
    assert found.keys() == {"train stage2", "evaluate", "export", "report"}
    assert reasons(submitted, lambda a: None, failed, finished(keys)) == {}


def test_another_image_runs_its_steps_and_the_cost_is_what_they_took(submitted: Any, tmp_path: Path) -> None:
    documents, arguments = submitted
    other = compiled(tmp_path, PipelineOptions(images=Images(train="emoverse-train-python@sha256:1")))
    planned = plan(cache_keys(other, arguments), [finished(cache_keys(documents, arguments))])
    runs = {step.name for step in planned if step.reason}
    assert runs == {"base-model", "budget", "train stage1", "train stage2", "evaluate", "export", "report"}
    assert summary(planned) == f"7 of {len(planned)} steps will run; they took 420 s the last time"


def test_a_changed_size_is_not_served_the_results_of_the_former_one(workspace: Workspace) -> None:
    """DVC leaves every key called `size` out of its run cache's key, so it would restore a former result."""
    parameter("media", "size", 128)(workspace)
    assert {"validate@meld", "validate@ecf", "validate@mosei", "base-model"} <= workspace.repro()
