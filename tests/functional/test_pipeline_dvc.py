"""dvc.yaml: each change of data, parameters, code or libraries runs what depends on it again, and nothing else."""

import contextlib
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from emoverse.artifacts.digests import fingerprints
from emoverse.artifacts.manifest import write_json
from emoverse.config import load_params, plain

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "emoverse"
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep")  # inside DVC
CORPORA = ("meld", "ecf", "mosei")
VALIDATE = {f"validate@{name}" for name in CORPORA}
AFTER_FRAMES = {"build-amt", "stage1", "stage2", "evaluate", "export", "report"}
# The stages that a changed section changes by itself; what comes after them runs when their output differs.
SECTIONS = {
    "corpora.meld.root": {"validate@meld", "build-amt"},
    "media.size": {*VALIDATE, "base-model"},
    "validation.min_duration": VALIDATE,
    "amt.seed": {"build-amt"},
    "base_model.seed": {"base-model"},
    "train.seed": {"stage1", "stage2"},
    "stage1.epochs": {"stage1"},
    "stage2.epochs": {"stage2"},
    "evaluate.seed": {"evaluate"},
    "export.compared": {"export"},
}


def stages() -> dict[str, dict[str, object]]:
    found = yaml.safe_load((REPO / "dvc.yaml").read_text("utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in found.items()}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a DVC workspace in which every stage counts as run: its outputs are stand-ins, its code and wiring real."""
    root = tmp_path_factory.mktemp("workspace")
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy2(REPO / name, root / name)
    shutil.copytree(PACKAGE, root / "emoverse", ignore=shutil.ignore_patterns("__pycache__"))
    params = load_params(root / "params.yaml")
    raw = [*(one.root for one in params.corpora.values()), params.base_model.source]
    outs = [f"data/validated/{name}" for name in CORPORA]
    outs += [
        str(out)
        for name, stage in stages().items()
        if name not in ("validate", "fingerprints")
        for out in stage["outs"]
    ]
    for folder in (*raw, *outs):
        (root / folder).mkdir(parents=True)
        (root / folder / "stand-in").write_text(folder, "utf-8")
    write_fingerprints(root)
    with contextlib.chdir(root), Repo.init(".", no_scm=True) as repo:
        repo.commit(force=True)
    assert changed(root) == set()
    return root


def write_fingerprints(root: Path) -> None:
    """Do what the stage `fingerprints` does: every `dvc repro` begins with it."""
    values = plain(load_params(root / "params.yaml"))
    write_json(root / "data/fingerprints.json", fingerprints(values, root, root / "emoverse"))


def changed(root: Path) -> set[str]:
    """Return the stages that DVC would run (in this process: starting DVC takes seconds)."""
    write_fingerprints(root)
    with contextlib.chdir(root), Repo(".") as repo:
        return set(repo.status()) - {"fingerprints"}  # which always runs


def test_every_section_of_the_parameters_is_in_the_table() -> None:
    assert {key.partition(".")[0] for key in SECTIONS} == set(yaml.safe_load((REPO / "params.yaml").read_text("utf-8")))


@pytest.mark.parametrize("key", SECTIONS)
def test_a_changed_parameter_re_runs_what_depends_on_it_and_only_that(workspace: Path, key: str) -> None:
    path = workspace / "params.yaml"
    before = path.read_text("utf-8")
    tree = yaml.safe_load(before)
    node = tree
    *parents, last = key.split(".")
    for name in parents:
        node = node[name]
    other = {"merged": "adapter"}.get(str(node[last]), f"{node[last]}/.")
    node[last] = other if isinstance(node[last], str) else node[last] + 1
    path.write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    try:
        assert changed(workspace) == SECTIONS[key]
    finally:
        path.write_text(before, "utf-8")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("emoverse/tasks/mer.py", AFTER_FRAMES),  # training scores the validation set
        ("emoverse/validation/validate.py", VALIDATE),
        ("emoverse/media/frames.py", {*VALIDATE, *AFTER_FRAMES}),
        ("emoverse/errors.py", set()),
        ("emoverse/cli/models.py", set()),
        ("data/raw/sample/ECF/stand-in", {"validate@ecf"}),
        ("data/raw/sample/InternVL-tiny/stand-in", {"base-model"}),
        ("data/validated/meld/stand-in",
         {"validate@meld", "build-amt", "stage1", "stage2", "evaluate", "export", "report"}),
        ("data/validated/meld.run.json", set()),
        ("data/validated/.meld.lock", set()),
    ],
)  # fmt: skip
def test_a_changed_file_re_runs_what_depends_on_it_and_only_that(
    workspace: Path, file: str, expected: set[str]
) -> None:
    path = workspace / file
    before = path.read_bytes() if path.exists() else None
    path.write_bytes((before or b"") + b"\nCHANGED = 1\n")
    try:
        assert changed(workspace) == expected
    finally:
        path.write_bytes(before) if before is not None else path.unlink()


@pytest.mark.parametrize("module", ["tasks/mer.py", "training/trainer.py", "media/decode.py"])
def test_a_comment_or_a_docstring_re_runs_nothing(workspace: Path, module: str) -> None:
    path = workspace / "emoverse" / module
    before = path.read_text("utf-8")
    path.write_text(f"# A comment.\n{before}\n# Another.\n", "utf-8")
    try:
        assert changed(workspace) == set()
    finally:
        path.write_text(before, "utf-8")


def test_another_version_of_a_library_re_runs_the_steps_that_it_decides(workspace: Path) -> None:
    values = fingerprints(plain(load_params(workspace / "params.yaml")), workspace, workspace / "emoverse")
    for step in values.values():
        if "peft" in step["libraries"]:
            step["libraries"]["peft"] = "0.0.0"
    write_json(workspace / "data/fingerprints.json", values)
    with contextlib.chdir(workspace), Repo(".") as repo:
        assert set(repo.status()) - {"fingerprints"} == {"stage1", "stage2"}


def test_every_later_stage_comes_after_what_it_reads(workspace: Path) -> None:
    with contextlib.chdir(workspace), Repo(".") as repo:
        edges = {(before.addressing, after.addressing) for after, before in repo.index.graph.edges}
    assert ("build-amt", "stage1") in edges
    assert {(f"validate@{name}", "build-amt") for name in CORPORA} <= edges
    assert {("stage2", "evaluate"), ("stage2", "export"), ("evaluate", "export"), ("export", "report")} <= edges
