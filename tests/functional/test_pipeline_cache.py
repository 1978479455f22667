"""What Kubeflow takes from its cache after a change, and what it runs again: every case with its list."""

import functools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipelines.options
from components import Images
from emoverse.artifacts.digests import code_digest
from emoverse.config import TINY, load_params
from pipelines.options import PipelineOptions, default_arguments, local_arguments
from pipelines.pipeline import compile_to
from pipelines.plan import TaskKey, cache_keys

REPO = Path(__file__).resolve().parents[2]
CORPORA = ("meld", "ecf", "mosei")
FETCH, VALIDATE = ({f"{step} {name}" for name in CORPORA} for step in ("fetch", "validate"))
SCORED = {"evaluate", "export", "report"}
TRAINED = {"train stage1", "train stage2", *SCORED}
BUILT = {"build-amt", "budget"}
DATA = {*FETCH, *VALIDATE, *BUILT, "report"}

# What is changed -> what runs again. The rest is a hit.
PARAMETERS = {
    "media.size": {*VALIDATE, *BUILT, "base-model", *TRAINED},
    "validation.min_duration": {*VALIDATE, *BUILT, *TRAINED},
    "amt.seed": {*BUILT, *TRAINED},
    "base_model.seed": set(),  # decides nothing where a checkpoint is the base
    "train.seed": {"budget", *TRAINED},
    "stage1.seed": {"budget", *TRAINED},
    "stage2.seed": {"budget", "train stage2", *SCORED},
    "evaluate.seed": SCORED,
    "export.compared": {"export", "report"},
}
RAW = {
    "MELD/train/dia0_utt0.mp4": {"fetch meld", "validate meld", *BUILT, *TRAINED},  # a clip
    "MELD/train_sent_emo.csv": {"fetch meld", "validate meld", *BUILT, *TRAINED},  # a label
    "ECF/clip.mp4": {"fetch ecf", "validate ecf", *BUILT, *TRAINED},
    "InternVL-tiny/config.json": {"fetch base model", "base-model", "budget", *TRAINED},
}
CODE = {
    "tasks/mer.py": {*BUILT, *TRAINED},  # a prompt
    "corpora/meld.py": {*VALIDATE, *BUILT, *TRAINED},
    "validation/expectations.py": {*VALIDATE, *BUILT, *TRAINED},
    "amt/build_amt.py": {*BUILT, *TRAINED},
    "models/weights.py": {"base-model", "budget", *TRAINED},
    "training/trainer.py": TRAINED,
    "budget.py": {"budget", "report"},
    "evaluation/evaluate.py": SCORED,
    "export/export.py": {"export", "report"},
    "report/page.css": {"report"},
    "errors.py": set(),
    "cli/models.py": set(),
}


Keys = dict[str, TaskKey]


def missed(before: Keys, after: Keys) -> set[str]:
    """Return the steps that run again."""
    assert before.keys() == after.keys()
    return {name for name in before if before[name].digest != after[name].digest}


@pytest.fixture(params=["2.17's key", "with the environment"])
def with_environment(request: pytest.FixtureRequest) -> bool:
    """Apply every rule to the key of 2.17 and to that of later versions."""
    return bool(request.param == "with the environment")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Make a workspace: parameters, the package, and a raw corpus of two files each (nothing here reads a clip)."""
    shutil.copy2(REPO / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(REPO / "emoverse", tmp_path / "emoverse", ignore=shutil.ignore_patterns("__pycache__"))
    files = ("MELD/train/dia0_utt0.mp4", "MELD/train_sent_emo.csv", "ECF/clip.mp4", "MOSEI/clip.mp4")
    for name in (*files, "InternVL-tiny/config.json"):
        path = tmp_path / "data/raw/sample" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("as it was", "utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[PipelineOptions], list[Any]]:
    folder = tmp_path_factory.mktemp("compiled")

    @functools.cache
    def _compiled(revision: str, data: str, shards: int) -> list[Any]:
        options = PipelineOptions(images=Images(data=data), revision=revision, shards=shards)
        compile_to(folder / "p.yaml", load_params(REPO / "params.yaml"), base=REPO, options=options)
        return list(yaml.safe_load_all((folder / "p.yaml").read_text("utf-8")))

    return lambda options: _compiled(options.revision, options.images.data, options.shards)


@pytest.fixture
def keys(
    workspace: Path, compiled: Any, monkeypatch: pytest.MonkeyPatch, with_environment: bool
) -> Callable[..., Keys]:
    """Return the cache keys of a run of the workspace as it is now."""
    monkeypatch.setattr(pipelines.options, "code_digest", lambda step: code_digest(step, workspace / "emoverse"))

    def _keys(options: PipelineOptions | None = None, **overrides: Any) -> Keys:
        params = load_params(workspace / "params.yaml", {k.replace("__", "."): v for k, v in overrides.items()})
        arguments = local_arguments(params, workspace).as_keywords()
        return cache_keys(compiled(options or PipelineOptions()), arguments, with_environment=with_environment)

    return _keys


def test_nothing_runs_again_when_nothing_changed(keys: Callable[..., Keys]) -> None:
    first = keys()
    assert first.keys() == {*DATA, "fetch base model", "base-model", *TRAINED}
    assert missed(first, keys()) == set()


@pytest.mark.parametrize("key", PARAMETERS)
def test_a_changed_parameter(keys: Callable[..., Keys], key: str) -> None:
    section, name = key.split(".")
    now = getattr(getattr(load_params(REPO / "params.yaml"), "stage1" if section == "train" else section), name)
    assert missed(keys(), keys(**{f"{section}__{name}": now + 1})) == PARAMETERS[key]


def test_a_changed_seed_of_a_tiny_model_that_is_trained_in_the_run(tmp_path: Path) -> None:
    params = load_params(REPO / "params.yaml", {"base_model.source": TINY})
    compile_to(tmp_path / "p.yaml", params, base=REPO, options=PipelineOptions())
    documents = list(yaml.safe_load_all((tmp_path / "p.yaml").read_text("utf-8")))
    before, after = (
        cache_keys(documents, default_arguments(one, REPO).as_keywords())
        for one in (params, replace(params, base_model=replace(params.base_model, seed=99)))
    )
    assert missed(before, after) == {"base-model", "budget", *TRAINED}


def test_every_section_of_the_parameters_is_in_the_table() -> None:
    sections = set(yaml.safe_load((REPO / "params.yaml").read_text("utf-8"))) - {"corpora"}
    assert {key.partition(".")[0] for key in PARAMETERS} == sections


@pytest.mark.parametrize("name", RAW)
def test_a_changed_clip_or_label(keys: Callable[..., Keys], workspace: Path, name: str) -> None:
    before = keys()
    (workspace / "data/raw/sample" / name).write_text("changed", "utf-8")
    assert missed(before, keys()) == RAW[name]


@pytest.mark.parametrize("name", CODE)
def test_changed_code_or_a_changed_prompt(keys: Callable[..., Keys], workspace: Path, name: str) -> None:
    before = keys()
    with (workspace / "emoverse" / name).open("a", encoding="utf-8") as handle:
        handle.write("\nCHANGED = 1\n")
    assert missed(before, keys()) == CODE[name]


def test_another_commit_alone_runs_nothing_again(keys: Callable[..., Keys]) -> None:
    assert missed(keys(PipelineOptions(revision="a")), keys(PipelineOptions(revision="b"))) == set()


def test_another_image_runs_its_steps_again_and_what_reads_them(keys: Callable[..., Keys]) -> None:
    other = PipelineOptions(images=Images(data="emoverse-data-python@sha256:1"))
    assert missed(keys(), keys(other)) == {*DATA, "fetch base model", "base-model", *TRAINED}


def test_a_corpus_taken_out_leaves_the_others_validated(keys: Callable[..., Keys], compiled: Any) -> None:
    whole = keys()
    params = load_params(REPO / "params.yaml")
    fewer = replace(params, corpora={n: one for n, one in params.corpora.items() if n != "ecf"})
    arguments = default_arguments(fewer, REPO).as_keywords()
    before = cache_keys(compiled(PipelineOptions()), default_arguments(params, REPO).as_keywords())
    after = cache_keys(compiled(PipelineOptions()), arguments)
    assert whole.keys() - after.keys() == {"fetch ecf", "validate ecf"}
    assert {name for name in after if before[name].digest != after[name].digest} == {*BUILT, *TRAINED}


def test_a_clip_runs_all_shards_of_its_corpus_again_and_no_other(keys: Callable[..., Keys], workspace: Path) -> None:
    sharded = PipelineOptions(shards=2)
    before = keys(sharded)
    (workspace / "data/raw/sample/ECF/clip.mp4").write_text("changed", "utf-8")
    again = {"validate-part ecf 1/2", "validate-part ecf 2/2", "validate-join ecf"}
    assert missed(before, keys(sharded)) == {"fetch ecf", *again, *BUILT, *TRAINED}
