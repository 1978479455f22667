"""Fault 15: a token of the environment is used where it is wanted, and stands nowhere afterwards."""

import gzip
import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml
from kfp import dsl

from components.fetch import fetch
from components.validate import validate
from emoverse.cli.__init__ import main
from emoverse.config import TINY, MediaParams, ValidationParams, plain
from emoverse.fetching import resolve
from pipelines.run_local import session
from tests.factories import remotes
from tests.factories.answering import write_rows
from tests.factories.canary import ENVIRONMENT, TOKEN, traces
from tests.factories.endpoint import Server, completion
from tests.factories.kubeflow import kubeflow
from tests.factories.meld import make_meld

REPO = Path(__file__).resolve().parents[2]
IMAGE = "example.org/emoverse-python@sha256:" + "5" * 64
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep", "ignore:.*HTTPResponse.getheaders")  # inside DVC, kfp


@dsl.pipeline(name="from-a-remote")
def from_a_remote(md5: str, remote: str, media: dict, validation: dict) -> dsl.Dataset:
    raw = fetch(corpus="meld", md5=md5, remote=remote, root="", volume="").outputs["raw"]
    return validate(
        corpus="meld", raw_md5=md5, media=media, validation=validation, code_digest="", volume="", raw=raw
    ).outputs["validated"]  # fmt: skip


def test_the_search_finds_a_token_in_plain_and_in_compressed_files(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text(f"x{TOKEN}x", "utf-8")
    pd.DataFrame({"a": [f"{n}{TOKEN}" for n in range(3)]}).to_parquet(tmp_path / "table.parquet", compression="zstd")
    (tmp_path / "log.gz").write_bytes(gzip.compress(TOKEN.encode() * 3))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner", TOKEN * 3)
    (tmp_path / "clean.txt").write_text("nothing", "utf-8")
    assert traces(tmp_path) == ["a.zip", "log.gz", "plain.txt", "table.parquet"]


def test_a_token_stands_in_no_artifact_log_manifest_or_compiled_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = remotes.repository(tmp_path / "repository", {"README.txt": b"as distributed"})
    make_meld(root / "raw/MELD", {"train": 2, "dev": 1, "test": 1})
    remotes.track(root)
    tree = yaml.safe_load((REPO / "params.yaml").read_text("utf-8"))
    tree["corpora"] = {"meld": {"root": "raw/MELD"}}
    tree["base_model"]["source"] = TINY
    tree["amt"]["stage1"]["corpora"] = tree["amt"]["stage2"]["corpora"] = ["meld"]
    (root / "params.yaml").write_text(yaml.safe_dump(tree), "utf-8")
    (root / "cluster.yaml").write_text("secrets: [{name: r, env: {p: EMOVERSE_REMOTE_PASSWORD}}]\n", "utf-8")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(root)
    judge = Server(lambda n, body, path: (200, {}, completion("10")))
    with remotes.webdav(tmp_path / "webdav") as remote, kubeflow() as cluster:
        remotes.use(root, remote)
        cluster.token = TOKEN
        tracked = resolve("raw/MELD", repository=root)
        media = plain(MediaParams(frames=2, size=32, timeout=20.0))
        limits = ValidationParams(max_quarantined=0.5, min_duration=0.1, max_duration=60.0, max_duration_gap=2.0)
        with session(root / "scratch"):
            done = from_a_remote(md5=tracked.md5, remote=tracked.remote, media=media, validation=plain(limits)).output
        assert done.metadata["raw"] == {"meld": tracked.md5}
        rows = [{"channel": "r", "labels": "Joy.", "response": "Joy."}]
        path = write_rows(root / "scratch/p.jsonl", rows)
        settings = root / "scratch/judge.json"
        settings.write_text(json.dumps({"url": judge.url, "model": "m", "cache": "scratch/cache"}), "utf-8")
        assert main(["score", str(path), "--task", "eri", "--judge", str(settings)]) == 0
        assert main(["compile", "--out", "scratch/emoverse.yaml", "--cluster", "cluster.yaml"]) == 0
        images = ["--image-data", IMAGE, "--image-train", IMAGE, "--unchecked", "image"]
        assert main(["submit", "--host", cluster.host, "--cluster", "cluster.yaml", *images, "--wait"]) == 0
        main(["doctor", "--host", cluster.host, "--json"])
        main(["lineage", done.path])
    judge.http.shutdown()
    judge.http.server_close()

    assert judge.keys == [f"Bearer {TOKEN}"], "the token was really used"
    assert cluster.runs, "and here"
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err
    assert TOKEN not in json.dumps(cluster.runs)
    # Where its owner put it, by DVC's own means: a file that git ignores.
    assert traces(tmp_path) == ["repository/.dvc/config.local"]
