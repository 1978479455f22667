import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emoverse.amt.build_amt import build_amt
from emoverse.artifacts.manifest import read_manifest
from emoverse.config import AmtParams, load_params
from emoverse.errors import RowErrors, UserError
from tests.conftest import REPO
from tests.factories.amt import corpus, validated

PARAMS = load_params(REPO / "params.yaml").amt
SECTION = replace(PARAMS.stage1, corpora=("meld", "mosei"), tasks={"mer": 1.0, "msa": 1.0})
PLAIN = replace(PARAMS, stage1=SECTION, stage2=SECTION, modality_dropout=0.0)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("validated")
    return [validated(folder / name, corpus(name)) for name in ("meld", "mosei")]


def test_a_published_mixture_read_back_gives_the_same_rows(inputs: list[Path], tmp_path: Path) -> None:
    build_amt(inputs, tmp_path / "own", PLAIN)
    published = tmp_path / "own/published/stage1.json"
    build_amt(inputs, tmp_path / "theirs", PLAIN, {"stage1": published})
    assert (tmp_path / "theirs/stage1.jsonl").read_bytes() == (tmp_path / "own/stage1.jsonl").read_bytes()
    assert (tmp_path / "theirs/published/stage1.json").read_bytes() == published.read_bytes()
    assert (tmp_path / "theirs/stage2.jsonl").read_bytes() == (tmp_path / "own/stage2.jsonl").read_bytes()
    assert "stage1 of the authors" in read_manifest(tmp_path / "theirs")["inputs"]


def test_records_without_a_clip_or_a_known_prompt_are_dropped_and_counted(inputs: list[Path], tmp_path: Path) -> None:
    build_amt(inputs, tmp_path / "own", PLAIN)
    records = json.loads((tmp_path / "own/published/stage1.json").read_text("utf-8"))
    hostile = dict(records[0], query=records[0]["query"].replace("says: ", "says: <image> <emotion> <|im_end|>", 1))
    hostile["response"] += " <image>"
    extra = [
        dict(records[0], videos=["MELD/train/gone.mp4"], images=[]),
        dict(records[1], query="What colour?"),
        hostile,
    ]
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps([*records, *extra]), "utf-8")
    build_amt(inputs, tmp_path / "amt", PLAIN, {"stage1": path})
    dropped = read_manifest(tmp_path / "amt")["rows"]["dropped"]
    assert (dropped["clip-not-validated"], dropped["unknown-prompt"]) == (1, 1)
    found = rows(tmp_path / "amt/stage1.jsonl")
    assert len(found) == len(records) + 1
    content = found[-1]["messages"][1]["content"]
    assert "<image>" not in content.removeprefix("<image>")
    assert "<|im_end|>" not in content
    assert "<image>" not in found[-1]["messages"][2]["content"]
    assert found[-1]["channel"].endswith("~2")
    task_tag = "<sentiment>" if found[-1]["task"] == "msa" else "<emotion>"
    assert content.count(task_tag) == 1


def test_broken_records_are_all_named(inputs: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    good = {"query": "q <emotion>", "response": "Joy.", "videos": ["a.mp4"]}
    bad = [3, {"query": "q"}, {**good, "videos": []}, {**good, "images": ["b.png"]}, {**good, "videos": 5},
           {**good, "videos": "a.mp4"}]  # fmt: skip
    path.write_text(json.dumps([good, *bad]), "utf-8")
    with pytest.raises(RowErrors) as caught:
        build_amt(inputs, tmp_path / "amt", PLAIN, {"stage1": path})
    assert [problem.split("[")[1][0] for problem in caught.value.problems] == list("123456")
    path.write_text(json.dumps([good]), "utf-8")
    with pytest.raises(UserError, match="no record of stage1 names a validated clip"):
        build_amt(inputs, tmp_path / "amt", PLAIN, {"stage1": path})
    assert not (tmp_path / "amt").exists()


@pytest.mark.parametrize("per_clip", ["several", "one"])
def test_a_cap_leaves_exactly_so_many_rows_and_the_same_ones_of_a_larger_cap(
    inputs: list[Path], tmp_path: Path, per_clip: Any
) -> None:
    kept: dict[int, set[str]] = {}
    for cap in (5, 9, 9999):
        out = tmp_path / str(cap)
        build_amt(inputs, out, _capped(replace(PLAIN, per_clip=per_clip), {"mer": cap}))
        found = rows(out / "stage1.jsonl")
        kept[cap] = {row["channel"] for row in found if row["task"] == "mer"}
        assert Counter(row["task"] for row in found)["msa"] > 9
    assert (len(kept[5]), len(kept[9])) == (5, 9)
    assert kept[5] < kept[9] < kept[9999]


@pytest.mark.parametrize("per_clip", ["several", "one"])
def test_caps_of_several_tasks_hold_together(inputs: list[Path], tmp_path: Path, per_clip: Any) -> None:
    caps = {"mer": 5, "msa": 4}
    build_amt(inputs, tmp_path / "amt", _capped(replace(PLAIN, per_clip=per_clip), caps))
    found = Counter(row["task"] for row in rows(tmp_path / "amt/stage1.jsonl"))
    assert {name: found[name] for name in caps} == caps


@pytest.mark.parametrize("changes", [{"tasks": {}}, {"tasks": {"mer": 0.0}}, {"corpora": ()}])
def test_a_stage_that_asks_for_nothing_is_an_error(inputs: list[Path], tmp_path: Path, changes: Any) -> None:
    params = replace(PLAIN, stage2=replace(PLAIN.stage2, **changes))
    with pytest.raises(UserError, match=r"amt\.stage2: .* nothing to train on"):
        build_amt(inputs, tmp_path / "amt", params)


def _capped(params: AmtParams, caps: dict[str, int]) -> AmtParams:
    return replace(params, stage1=replace(params.stage1, caps=caps))
