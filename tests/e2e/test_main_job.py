"""The main job as a user runs it: dvc pull, dvc repro, and the same steps through Kubeflow's local runner."""

import json
import re
from pathlib import Path

import pytest

from emoverse.manifest import open_source
from tests.e2e.conftest import Checkout

pytestmark = pytest.mark.slow
OUTPUTS = ("validated/meld", "validated/ecf", "validated/mosei", "amt", "base", "stage1", "stage2", "scores", "onnx")


def digests(root: Path) -> dict[str, str]:
    return {name: open_source(root / name).digest for name in OUTPUTS}


def test_every_output_is_finished_and_matches_its_manifest(repro: Checkout) -> None:
    assert all(digests(repro.root / "data").values())


def test_a_second_repro_runs_nothing(repro: Checkout) -> None:
    before = {name: (repro.root / "data" / name / "manifest.json").stat().st_mtime_ns for name in OUTPUTS}
    assert "Running stage" not in repro.run("dvc", "repro")
    assert before == {name: (repro.root / "data" / name / "manifest.json").stat().st_mtime_ns for name in OUTPUTS}


def test_the_local_kubeflow_run_gives_the_same_digests_and_then_only_cache_hits(repro: Checkout) -> None:
    first = json.loads(repro.run("emoverse", "run-local", "--json"))
    assert first["digests"] == digests(repro.root / "data")
    second = json.loads(repro.run("emoverse", "run-local", "--json"))
    assert second["digests"] == first["digests"]
    assert second["ran"] == []


def test_lineage_leads_from_the_onnx_model_to_the_dvc_files_in_git(repro: Checkout) -> None:
    chain = repro.run("emoverse", "lineage", "data/onnx")
    for name in ("MELD", "ECF", "MOSEI"):
        pointer = (repro.root / f"data/raw/sample/{name}.dvc").read_text("utf-8")
        (md5,) = re.findall(r"md5: (\S+)", pointer)
        assert md5 in chain
        assert f"data/raw/sample/{name}.dvc" in chain


def test_metrics_and_plots_can_be_shown(repro: Checkout) -> None:
    assert "mer" in repro.run("dvc", "metrics", "show")
    assert "index.html" in repro.run("dvc", "plots", "show")


def test_the_quarantine_holds_each_planted_fault(repro: Checkout) -> None:
    import pandas as pd

    rows = pd.concat(pd.read_parquet(p) for p in sorted((repro.root / "data/validated").glob("*/quarantine.parquet")))
    assert {"clip-missing", "duplicate-id"} <= set(rows["reason"])
    assert rows["detail"].str.len().gt(0).all()


def test_the_report_is_one_file_without_outside_addresses(repro: Checkout) -> None:
    page = (repro.root / "reports/index.html").read_text("utf-8")
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    assert len(page) > 50_000


def test_rows_are_never_lost_between_steps(repro: Checkout) -> None:
    for name in OUTPUTS:
        rows = open_source(repro.root / "data" / name).manifest["rows"]
        if rows:
            assert rows["in"] == rows["out"] + sum(rows["dropped"].values()), name
