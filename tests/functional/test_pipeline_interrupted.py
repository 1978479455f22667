"""run-local: when its process is terminated, no step's process stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

REPO = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from pathlib import Path
from emoverse.cli import guarded
from kfp import dsl
from pipelines.run_local import session

@dsl.component(base_image="python")
def sleep(place: str) -> None:
    import os, subprocess, sys, time
    from pathlib import Path
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(place).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)

@dsl.pipeline(name="sleeper")
def sleeper(place: str) -> None:
    sleep(place=place)

def run() -> None:
    with session(Path(sys.argv[1]) / "runs"):
        sleeper(place=str(Path(sys.argv[1]) / "pids"))

sys.exit(guarded(run, debug=False))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_terminated_run_leaves_no_step_behind(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, "utf-8")
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    pids = tmp_path / "pids"
    deadline = time.monotonic() + 400
    while not (pids.is_file() and len(pids.read_text("utf-8").split()) == 2):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted; run the same command again" in error
    left = [int(pid) for pid in pids.read_text("utf-8").split() if psutil.pid_exists(int(pid))]
    assert [pid for pid in left if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE] == []
