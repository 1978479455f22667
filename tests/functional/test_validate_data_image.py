"""The validate step needs nothing but the libraries of the data image, requirements/data.txt."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tests.factories.meld import make_meld

REPO = Path(__file__).resolve().parents[2]
# Refuses each distribution that is not in requirements/data.txt, in a process and, by sitecustomize, in its workers.
BLOCKER = """
import importlib.metadata, re, sys
allowed = set({allowed!r})
modules = importlib.metadata.packages_distributions()
class Blocker:
    def find_spec(self, name, path=None, target=None):
        owners = modules.get(name.partition(".")[0], [])
        if owners and not any(re.sub(r"[-_.]+", "-", owner).lower() in allowed for owner in owners):
            raise ImportError(f"{{name}} is not in requirements/data.txt")
        return None
sys.meta_path.insert(0, Blocker())
"""


def test_validate_of_a_large_profile_runs_with_the_libraries_of_the_data_image_alone(tmp_path: Path) -> None:
    names = re.findall(r"^([A-Za-z0-9._-]+)==", (REPO / "requirements/data.txt").read_text(), re.MULTILINE)
    allowed = sorted({re.sub(r"[-_.]+", "-", name).lower() for name in names} | {"emoverse", "setuptools"})
    assert not {"torch", "torchvision", "transformers", "decord"} & set(allowed)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCKER.format(allowed=allowed))
    raw = make_meld(tmp_path / "MELD")
    code = "import sys; sys.argv[0] = 'emoverse'; from emoverse.cli import main; sys.exit(main())"
    settings = ["media.size=448", "media.frames=8", "media.colour=rgb", "media.encoding=jpeg", "media.crop=squash"]
    arguments = ["validate", "--corpus", "meld", "--raw", str(raw), "--out", str(tmp_path / "out"), "--workers", "2"]
    arguments += ["--params", str(REPO / "params.yaml"), *(word for s in settings for word in ("--set", s))]
    environment = {"PYTHONPATH": f"{tmp_path / 'site'}:{REPO}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    blocked = subprocess.run([sys.executable, "-c", "import torch"], env=environment, capture_output=True, text=True)
    assert "torch is not in requirements/data.txt" in blocked.stderr, "the blocker does its work"
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]["dropped"] == {}
    assert pq.read_table(tmp_path / "out" / "frames" / "index.parquet").num_rows == 10 * 9
