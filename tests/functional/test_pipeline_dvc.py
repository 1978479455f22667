"""dvc.yaml: its code dependencies are those the imports show, and each change re-runs what depends on it alone."""

import ast
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from emoverse.config import load_params
from emoverse.registry import CODE

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "emoverse"
STEP_OF = {"stage1": "train", "stage2": "train"}
START_OF = {"validate": "validation/step.py", "build-amt": "amt/step.py", "base-model": "models/step.py",
            "budget": "budget.py", "train": "training/step.py", "evaluate": "evaluation/step.py",
            "export": "export/step.py", "report": "report/step.py"}  # fmt: skip
# What verb and component hand to a step, which may not import it.
GIVEN = {"build-amt": ["validation/amt.py"]}
# What checks, records or moves a result and does not decide it (emoverse/registry.py says why it is left out).
AROUND = {"__init__.py", "yaml_text.py", "errors.py", "digests.py", "manifest.py", "params.py",
          "params_problems.py", "steps.py", "weights.py"}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep")  # inside DVC
CORPORA = ("meld", "ecf", "mosei")
VALIDATE = {f"validate@{name}" for name in CORPORA}
# The stages that a changed section changes by itself; what comes after them runs when their output differs.
SECTIONS = {
    "corpora.meld.root": {"validate@meld", "build-amt"},
    "media.size": {*VALIDATE, "base-model"},
    "validation.min_duration": VALIDATE,
    "amt.seed": {"build-amt"},
    "base_model.seed": {"base-model"},
    "train.seed": {"stage1", "stage2"},
    "stage1.epochs": {"stage1"},
    "stage2.start": {"stage2"},
    "evaluate.seed": {"evaluate"},
    "export.compared": {"export"},
}


def stages() -> dict[str, dict[str, object]]:
    found = yaml.safe_load((REPO / "dvc.yaml").read_text("utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in found.items()}


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_the_code_that_steps_py_names(name: str) -> None:
    deps = {str(dep) for dep in stages()[name]["deps"]}
    code = {dep.removeprefix("emoverse/") for dep in deps if dep.startswith("emoverse/")}
    assert code == set(CODE[STEP_OF.get(name, name)])


@pytest.mark.parametrize("step", START_OF)
def test_the_code_of_a_step_covers_every_module_its_function_imports(step: str) -> None:
    reached = reached_by(step)
    uncovered = {m for m in reached if not any(m == c or m.startswith(f"{c}/") for c in CODE[step])}
    assert uncovered == set()


@pytest.mark.parametrize("step", START_OF)
def test_the_code_of_a_step_names_nothing_its_function_never_reaches(step: str) -> None:
    reached = reached_by(step)
    idle = {c for c in CODE[step] if not any(m == c or m.startswith(f"{c}/") for m in reached)}
    assert idle == set()


def reached_by(step: str) -> set[str]:
    return reached_from(START_OF[step]).union(*map(reached_from, GIVEN.get(step, ())))


def reached_from(start: str) -> set[str]:
    """Follow imports (those inside functions too) from a module of the package; ``__init__`` only where it is asked."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in seen and name not in AROUND:
            seen.add(name)
            waiting.extend(imports_of(PACKAGE / name))
    return seen


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("emoverse"):
            for alias in node.names:
                yield from module_file(f"{node.module}.{alias.name}") or module_file(str(node.module))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from module_file(alias.name)


def module_file(dotted: str) -> list[str]:
    parts = dotted.split(".")
    if parts[0] != "emoverse":
        return []
    place = PACKAGE.joinpath(*parts[1:])
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return [path.relative_to(PACKAGE).as_posix()]
    return []


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a DVC workspace in which every stage counts as run: its outputs are stand-ins, its code and wiring real."""
    root = tmp_path_factory.mktemp("workspace")
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy2(REPO / name, root / name)
    shutil.copytree(PACKAGE, root / "emoverse", ignore=shutil.ignore_patterns("__pycache__"))
    raw = [one.root for one in load_params(root / "params.yaml").corpora.values()]
    outs = [f"data/validated/{name}" for name in CORPORA]
    outs += [str(out) for name, stage in stages().items() if name != "validate" for out in stage["outs"]]
    for folder in (*raw, *outs):
        (root / folder).mkdir(parents=True)
        (root / folder / "stand-in").write_text(folder, "utf-8")
    with contextlib.chdir(root), Repo.init(".", no_scm=True) as repo:
        repo.commit(force=True)
    assert changed(root) == set()
    return root


def changed(root: Path) -> set[str]:
    """Return the stages that DVC would run (in this process: starting DVC takes seconds)."""
    with contextlib.chdir(root), Repo(".") as repo:
        return set(repo.status())


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
    node[last] = f"{node[last]}/." if isinstance(node[last], str) else node[last] + 1
    path.write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    try:
        assert changed(workspace) == SECTIONS[key]
    finally:
        path.write_text(before, "utf-8")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("emoverse/tasks/mer.py", {"build-amt", "evaluate", "export", "report"}),
        ("emoverse/validation/validate.py", VALIDATE),
        ("emoverse/media/frames.py", {*VALIDATE, "build-amt", "stage1", "stage2", "evaluate", "export", "report"}),
        ("emoverse/errors.py", set()),
        ("emoverse/cli/training.py", set()),
        ("data/raw/sample/ECF/stand-in", {"validate@ecf"}),
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
    path.write_bytes((before or b"") + b"\n# changed\n")
    try:
        assert changed(workspace) == expected
    finally:
        path.write_bytes(before) if before is not None else path.unlink()


def test_every_later_stage_comes_after_what_it_reads(workspace: Path) -> None:
    with contextlib.chdir(workspace), Repo(".") as repo:
        edges = {(before.addressing, after.addressing) for after, before in repo.index.graph.edges}
    assert ("build-amt", "stage1") in edges
    assert {(f"validate@{name}", "build-amt") for name in CORPORA} <= edges
    assert {("stage2", "evaluate"), ("stage2", "export"), ("evaluate", "export"), ("export", "report")} <= edges
