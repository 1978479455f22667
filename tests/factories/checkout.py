"""A fresh checkout of this tree, and the main job run in it, shortened where training is concerned."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.factories import canary

REPO = Path(__file__).resolve().parents[2]
# Fewer steps and resamples, the same rows and clips: what is tested here is the workflow, not the scores. One thread,
# because pytest runs two processes on two processors.
SHORT = {
    "train": {"threads": 1},
    "stage1": {"epochs": 0.3, "save_every": 4},
    "stage2": {"epochs": 0.3, "save_every": 4},
    "evaluate": {"bootstrap": 50, "agreement": 8, "threads": 1},
    "export": {"threads": 1},
}


@dataclass(frozen=True)
class Checkout:
    """A copy of the tree's files as git knows them, in a repository of its own."""

    root: Path
    python_path: tuple[Path, ...] = ()
    """Folders that come first on the module path of commands."""

    def run(self, *words: str, timeout: int = 800) -> str:
        """Run a command of the environment in the checkout; fail with what it printed unless it exits 0."""
        done = self.attempt(*words, timeout=timeout)
        assert done.returncode == 0, f"{' '.join(words)} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def attempt(self, *words: str, timeout: int = 800) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in the checkout."""
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        env |= {
            "DVC_NO_ANALYTICS": "1",
            "PYTHONPATH": os.pathsep.join(map(str, (*self.python_path, self.root))),
            **canary.ENVIRONMENT,
        }
        return subprocess.run(words, cwd=self.root, env=env, capture_output=True, text=True, timeout=timeout)

    def set_params(self, changes: dict[str, dict[str, object]]) -> None:
        """Change keys of sections of params.yaml."""
        path = self.root / "params.yaml"
        tree = yaml.safe_load(path.read_text("utf-8"))
        for section, values in changes.items():
            tree[section].update(values)
        path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), "utf-8")


def checkout(root: Path) -> Checkout:
    """Copy the tree's files, tracked and new, into a repository of its own at ``root``."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        capture_output=True,
        check=True,
    )
    for name in sorted(set(listed.stdout.decode().split("\0")) - {""}):
        if (REPO / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, root / name)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a checkout"]):
        subprocess.run([*git, *words], cwd=root, check=True, capture_output=True)
    return Checkout(root)


@pytest.fixture(scope="session")
def repro(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Return a checkout in which ``dvc pull`` and ``dvc repro`` have run, with little training."""
    copy = checkout(tmp_path_factory.mktemp("e2e") / "repository")
    copy.set_params(SHORT)
    raw = [str(path.relative_to(copy.root)) for path in (copy.root / "data/raw/sample").glob("*.dvc")]
    copy.run("dvc", "pull", "--quiet", *raw)
    copy.run("dvc", "repro", "--quiet")
    return copy
