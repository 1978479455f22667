"""The main job as a user runs it: dvc pull, dvc repro, and the same steps through Kubeflow's local runner."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from emoverse.artifacts.manifest import open_source
from emoverse.report.scores import flat
from tests.factories import canary
from tests.factories.checkout import Checkout

pytestmark = pytest.mark.slow
OUTPUTS = ("validated/meld", "validated/ecf", "validated/mosei", "amt", "base", "stage1", "stage2", "scores", "onnx")


def digests(root: Path) -> dict[str, str]:
    return {name: open_source(root / name).digest for name in OUTPUTS}


def test_every_output_is_finished_and_matches_its_manifest(repro: Checkout) -> None:
    assert all(digests(repro.root / "data").values())


def test_a_second_repro_runs_no_step(repro: Checkout) -> None:
    before = {name: (repro.root / "data" / name / "manifest.json").stat().st_mtime_ns for name in OUTPUTS}
    assert re.findall(r"Running stage '(.*)'", repro.run("dvc", "repro")) == ["fingerprints"]
    assert before == {name: (repro.root / "data" / name / "manifest.json").stat().st_mtime_ns for name in OUTPUTS}


def test_the_local_kubeflow_run_gives_the_same_digests_and_then_only_cache_hits(repro: Checkout) -> None:
    first = json.loads(repro.run("emoverse", "run-local", "--json"))
    assert first["digests"] == digests(repro.root / "data")
    second = json.loads(repro.run("emoverse", "run-local", "--json"))
    assert second["digests"] == first["digests"]
    assert second["ran"] == []


def test_a_final_score_leads_back_to_the_raw_videos_the_same_in_every_place(repro: Checkout) -> None:
    """The artifact's metadata, `emoverse lineage` and the report's graph name the same digests and the same MD5."""
    tracked = {
        name.lower(): re.findall(r"md5: (\S+)", (repro.root / f"data/raw/sample/{name}.dvc").read_text("utf-8"))[0]
        for name in ("MELD", "ECF", "MOSEI")
    }
    base = (repro.root / "data/raw/sample/InternVL-tiny.dvc").read_text("utf-8")
    tracked["weights"] = re.findall(r"md5: (\S+)", base)[0]
    repro.run("emoverse", "run-local", "--json")
    recorded = artifacts(repro.root / "scratch/kubeflow")
    kubeflow = recorded["evaluate/scores"]
    metrics = recorded["evaluate/metrics"]
    names = [one.get("display_name") for one in recorded.values()]
    assert None not in names
    assert len(names) == len(set(names)), "the UI lists artifacts by this name"
    assert metrics.pop("display_name") == "metrics of the test sets"
    assert metrics == flat(repro.root / "data/scores"), "the UI compares every other key of a metrics artifact"
    shown = ("/metrics", "/confusion_")
    of_steps = {
        name: one for name, one in recorded.items() if not name.startswith("raw ") and not any(s in name for s in shown)
    }
    assert all({"digest", "raw", "params", "code", "revision"} <= one.keys() for one in of_steps.values())
    chain = json.loads(repro.run("emoverse", "lineage", "data/scores", "--json"))
    assert kubeflow["raw"] == raw_of(chain) == tracked
    assert kubeflow["digest"] == chain["digest"]
    assert set(kubeflow["made_from"]) == set(lines_of(chain)) - {line_of(chain)}
    assert kubeflow["rows"] == chain["rows"]
    assert kubeflow["revision"] == chain["revision"]
    fetched = {line.split()[2]: line.split()[1] for line in kubeflow["made_from"] if line.startswith("raw ")}
    assert {recorded[f"raw {name}"]["digest"]: name for name in tracked} == fetched
    assert {name: recorded[f"raw {name}"]["dvc_md5"] for name in tracked} == tracked
    page = (repro.root / "reports/index.html").read_text("utf-8")
    graph = page[page.index('aria-label="lineage graph"') :]
    for line in (line_of(chain), *kubeflow["made_from"]):
        step, _, digest = line.split()
        assert digest[:12] in graph or step == "raw"
    assert all(f"DVC md5 {md5}" in graph for md5 in tracked.values())


def artifacts(root: Path) -> dict[str, Any]:
    """Return the metadata of the artifacts in the cache of kfp's local runner, as ``step/name``; ``raw`` by corpus."""
    found: dict[str, Any] = {}
    for path in (root / "cache").glob("*.json"):
        for name, one in json.loads(path.read_text("utf-8")).items():
            if isinstance(one, dict) and one.get("__kfp_artifact__"):
                step = Path(one["uri"]).parent.name
                found[f"raw {one['metadata']['corpus']}" if name == "raw" else f"{step}/{name}"] = one["metadata"]
    return found


def raw_of(node: dict[str, Any]) -> dict[str, str]:
    own = {node["name"]: node["dvc_md5"]} if node["step"] == "raw" else {}
    return own | {name: md5 for child in node["inputs"].values() for name, md5 in raw_of(child).items()}


def lines_of(node: dict[str, Any]) -> list[str]:
    return [line_of(node), *(line for child in node["inputs"].values() for line in lines_of(child))]


def line_of(node: dict[str, Any]) -> str:
    return f"{node['step']} {node['name']} {node['digest']}"


def test_a_token_of_the_environment_left_no_trace_in_the_whole_run(repro: Checkout) -> None:
    repro.run("emoverse", "compile", "--out", "scratch/emoverse.yaml")
    assert canary.traces(repro.root) == ["tests/factories/canary.py"]  # where it is made up


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


def test_validation_scores_of_the_model_are_beside_its_test_scores(repro: Checkout) -> None:
    data = repro.root / "data"
    assert (data / "scores/validation.json").read_bytes() == (data / "stage2/validation.json").read_bytes()


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
