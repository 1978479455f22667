"""ERI's reasons from a real endpoint: ms-swift serves a tiny model on this machine, and build-amt asks it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emoverse.amt.build_amt import build_amt
from emoverse.artifacts.digests import folder_files
from emoverse.artifacts.manifest import read_manifest
from emoverse.config import AmtParams, MediaParams, ValidationParams, load_params
from emoverse.tasks import neutralise
from emoverse.validation.validate import validate
from tests.conftest import REPO
from tests.factories.answering import make_model
from tests.factories.meld import make_meld

pytestmark = pytest.mark.slow
PATIENCE = 120.0  # seconds a server may take to import torch and load the model on a busy machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Serve a tiny model with ``swift deploy`` on a free port of this machine, offline and without a GPU."""
    folder = tmp_path_factory.mktemp("served")
    make_model(folder / "base")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {
        "model": folder / "base" / "model", "model_type": "internvl", "use_hf": "true", "torch_dtype": "float32",
        "attn_impl": "sdpa", "infer_backend": "transformers", "host": "127.0.0.1", "port": port,
        "served_model_name": "tiny",
    }  # fmt: skip
    command = [sys.executable, "-m", "swift.cli.deploy", *(str(w) for k, v in flags.items() for w in (f"--{k}", v))]
    quiet = {"HOME": str(folder), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, cwd=folder, env={**os.environ, **quiet}, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/v1/models", running, folder / "log")
            yield running, f"http://127.0.0.1:{port}/v1"
        finally:
            running.kill()
            running.wait()


def wait_for(url: str, running: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and running.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"ms-swift did not serve: {log.read_text('utf-8', 'replace')[-2000:]}")


def asking(url: str, folder: Path, name: str, **more: object) -> AmtParams:
    """Return parameters that ask the endpoint for every clip's reason, and nothing else."""
    settings = {
        "url": url, "model": "tiny", "cache": str(folder / f"cache-{name}"), "requests_per_minute": 1e6,
        "max_tokens": 12,
        "price_in": 2.0, "price_out": 8.0, "key_variable": "EMOVERSE_TEST_KEY",
    }  # fmt: skip
    path = folder / f"{name}.json"
    path.write_text(json.dumps(settings | more))
    params = load_params(REPO / "params.yaml").amt
    only = type(params.stage1)(corpora=("meld",), tasks={"eri": 1.0})
    return replace(params, stage1=only, stage2=only, leakage="report", reasons=f"endpoint:{path}")


def test_a_served_model_gives_reasons_that_outlive_the_server(
    server: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    running, url = server
    limits = ValidationParams(max_quarantined=0.0, min_duration=0.2, max_duration=60.0, max_duration_gap=2.0)
    meld = tmp_path / "meld"
    raw = make_meld(tmp_path / "raw", {"train": 3, "dev": 1, "test": 2})
    validate("meld", raw, meld, MediaParams(frames=2, size=32, timeout=20.0), limits, workers=1)

    build_amt([meld], tmp_path / "seen", asking(url, tmp_path, "seen"))
    build_amt([meld], tmp_path / "unseen", asking(url, tmp_path, "unseen", see_frames=False))
    seen, unseen = facts(tmp_path / "seen"), facts(tmp_path / "unseen")
    assert seen["model"] == "tiny"
    assert seen["answers"] == unseen["answers"] >= 6
    assert seen["tokens_in"] > unseen["tokens_in"], "the peak frame costs tokens, so the model was shown it"
    assert 0 < seen["tokens_out"] <= 12 * seen["answers"]
    assert seen["spend"] == pytest.approx((2.0 * seen["tokens_in"] + 8.0 * seen["tokens_out"]) / 1e6, abs=1e-6)
    found = [json.loads(line) for line in (tmp_path / "seen/stage2.jsonl").read_text("utf-8").splitlines()]
    assert len(found) == 3
    assert {row["provider"] for row in found} == {"endpoint:tiny"}
    cached = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "cache-seen").rglob("??/*.json")]
    kept = {neutralise(one["text"]).strip() for one in cached}
    assert {row["messages"][-1]["content"] for row in found} <= kept

    running.kill()
    running.wait()
    build_amt([meld], tmp_path / "again", asking(url, tmp_path, "seen"))
    assert folder_files(tmp_path / "again") == folder_files(tmp_path / "seen")
    assert facts(tmp_path / "again") == seen


def facts(out: Path) -> dict[str, Any]:
    return dict(read_manifest(out, made_by="build-amt")["facts"]["reasons"])
