"""doctor: each check tries the thing itself, and says ok or what to do."""

import json
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from emoverse.cli import doctor
from emoverse.cli.__init__ import main
from emoverse.config import TINY
from tests.factories import remotes
from tests.factories.kubeflow import kubeflow
from tests.factories.kubernetes import kubernetes
from tests.factories.remotes import Remote

REPO = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep")  # inside DVC


def test_a_complete_checkout_and_a_cluster_pass_all_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    with kubeflow() as cluster, kubernetes(tmp_path):
        code = main(["doctor", "--json", "--host", cluster.host])
    found = {one["check"]: one for one in json.loads(capsys.readouterr().out)}
    failed = {name for name, one in found.items() if one["state"] == "fail"}
    assert failed <= {"disk", "versions"}  # this machine's affair
    assert code == (2 if failed else 0)
    assert {"python", "versions", "pyav", "gpu", "disk", "raw meld", "docker", "kubeflow", "trainer"} <= found.keys()
    assert all(one["ok"] or one["remedy"] for one in found.values())


def test_a_failed_check_gets_its_remedy_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = remotes.repository(tmp_path / "r", {"a.csv": b"1", "b.csv": b"2"})
    remotes.use(root, Remote(str(tmp_path / "store")))
    tree = yaml.safe_load((REPO / "params.yaml").read_text("utf-8"))
    tree["corpora"] = {"meld": {"root": "raw/MELD"}, "ecf": {"root": "raw/ECF"}}
    tree["base_model"]["source"] = TINY
    (root / "params.yaml").write_text(yaml.safe_dump(tree), "utf-8")
    (gone,) = [p for p in (tmp_path / "store").rglob("*") if p.is_file() and p.read_bytes() == b"2"]
    gone.unlink()
    monkeypatch.chdir(root)
    assert main(["doctor", "--host", "http://127.0.0.1:9"]) == 2
    printed = capsys.readouterr()
    lines = {line[6:16].strip(): line for line in printed.out.splitlines()}
    assert {"raw meld", "raw ecf"} <= lines.keys(), printed.out
    assert lines["raw meld"].startswith("fail")
    assert "lacks 1 of its 2 files, such as b.csv; run `dvc push raw/MELD`" in lines["raw meld"]
    assert "no .dvc file names it; run `dvc add`" in lines["raw ecf"]
    assert "the endpoint gives no answer" in lines["kubeflow"]
    assert lines["pyav"].startswith("ok")
    assert "raw ecf, raw meld, kubeflow" in printed.err


def test_a_package_that_differs_from_the_lock_file_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    here = metadata.version("numpy")
    lock.write_text(f"numpy=={here} \\\n    --hash=sha256:00\nno-such-thing==1.0 ; python_version < '3'\n", "utf-8")
    assert doctor.versions(lock) == doctor.Finding("versions", True, "all 1 packages match the lock file")
    lock.write_text("numpy==0.1 \\\n    --hash=sha256:00\nno-such-thing==1.0\n", "utf-8")
    found = doctor.versions(lock)
    assert found.found == f"2 of 2 packages differ, such as numpy==0.1 (installed: {here})"
    assert found.remedy == "run `make setup`"


def test_a_decoder_that_is_missing_fails_and_one_that_reads_passes() -> None:
    assert doctor.decoder().ok
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "av", None)  # as where it is not installed
        found = doctor.decoder()
    assert found.state == "fail"
    assert "make setup" in found.remedy


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.disk(tmp_path).found.endswith("GiB free")
    monkeypatch.setattr(doctor, "FREE_BYTES", 2**60)
    assert doctor.disk(tmp_path).remedy.endswith("`dvc cache dir`")
