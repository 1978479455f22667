"""Ablations: which there are, and what each leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emoverse.cli.evaluation import NO_STAGE, table, variants, without_task
from emoverse.config import AmtParams, load_params
from emoverse.errors import UserError
from emoverse.report.scores import ablation_rows

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def amt() -> AmtParams:
    return load_params(REPO / "params.yaml").amt


def test_there_is_one_without_stage_1_and_one_without_each_task(amt: AmtParams) -> None:
    names = [variant.name for variant in variants(amt)]
    assert names == [NO_STAGE, "without-mer", "without-msa", "without-fer", "without-eri", "without-ecpe"]


def test_a_task_is_left_out_of_both_stages_and_nothing_else_is(amt: AmtParams) -> None:
    less = without_task(amt, "mer")
    for before, after in ((amt.stage1, less.stage1), (amt.stage2, less.stage2)):
        assert after.tasks == {name: weight for name, weight in before.tasks.items() if name != "mer"}
        assert after.corpora == before.corpora
    assert less.seed == amt.seed


def test_the_only_task_of_a_stage_cannot_be_left_out(amt: AmtParams) -> None:
    from dataclasses import replace

    alone = replace(amt, stage1=replace(amt.stage1, tasks={"fer": 1.0}))
    with pytest.raises(UserError, match="without fer, stage1 has no task"):
        without_task(alone, "fer")


def test_the_table_has_the_whole_model_its_controls_and_each_variant(tmp_path: Path) -> None:
    whole = {"n": 9, "accuracy": 0.8, "low": 0.7, "high": 0.9}
    whole |= {"text_only": 0.6, "text_only_low": 0.5, "text_only_high": 0.7}
    write(tmp_path / "whole", {"mer": whole, "fer": {"n": 5, "f1": 0.9, "low": 0.8, "high": 1.0}, "tests": {}})
    write(tmp_path / "less", {"mer": {"n": 9, "accuracy": 0.4, "low": 0.3, "high": 0.5}, "tests": {}})
    rows = ablation_rows(tmp_path / "whole", {"without x": tmp_path / "less"})
    assert [row["title"] for row in rows] == ["whole model", "words only", "without x"]
    assert rows[1]["tasks"] == {"mer": {"metric": "accuracy", "value": 0.6, "low": 0.5, "high": 0.7, "n": 9}}
    lines = table(rows).splitlines()
    assert lines[0].split() == ["mer", "fer"]
    assert lines[3].split() == ["without", "x", "0.400", "[0.300,", "0.500]", "-"]


def write(folder: Path, metrics: dict[str, object]) -> None:
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
