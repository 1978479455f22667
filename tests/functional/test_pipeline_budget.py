"""A run on a cluster counts its rows' tokens on a small pod, before it asks for a GPU."""

import json
from pathlib import Path

import pytest
from kfp import dsl

from components.budget import budget as component
from emoverse.artifacts.manifest import read_manifest
from emoverse.config import load_params, plain
from emoverse.errors import UserError
from pipelines.run_local import session
from tests.conftest import REPO
from tests.factories.answering import make_amt, make_model, rows_of, utterances


@dsl.pipeline(name="counted")
def counted(model: str, amt: str, media: dict, stage1: dict, stage2: dict) -> None:
    base = dsl.importer(artifact_uri=model, artifact_class=dsl.Model)
    rows = dsl.importer(artifact_uri=amt, artifact_class=dsl.Dataset)
    component(media=media, stage1=stage1, stage2=stage2, code_digest="", model=base.output, amt=rows.output)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("counted")
    rows = rows_of("mer", utterances("meld", 9))
    return {"model": str(make_model(root / "base")), "amt": str(make_amt(root / "amt", {}, rows))}


def run(root: Path, folders: dict[str, str], longest: int, stage1: bool = True) -> dict[str, object]:
    params = load_params(REPO / "params.yaml", {"stage1.max_length": 16, "stage2.max_length": longest})
    sections = {name: plain(getattr(params, name)) for name in ("media", "stage1", "stage2")}
    with session(root):
        counted(**folders, **{**sections, "stage1": sections["stage1"] if stage1 else {}})
    (output,) = root.rglob("budget/executor_output.json")
    (table,) = json.loads(output.read_text("utf-8"))["artifacts"]["table"]["artifacts"]
    return dict(table)


def test_the_table_counts_what_will_be_trained_and_names_what_it_was_counted_from(
    folders: dict[str, str], tmp_path: Path
) -> None:
    table = run(tmp_path, folders, 4096, stage1=False)  # a run that is given the model of stage 1
    written = Path(str(table["uri"])).read_text("utf-8")
    assert "| stage2 | mer | 9 |" in written
    assert "stage1" not in written
    metadata = table["metadata"]
    assert isinstance(metadata, dict)
    digests = {name: str(read_manifest(Path(folder))["outputs"]["digest"]) for name, folder in folders.items()}
    assert metadata["inputs"] == digests
    assert metadata["params"]["max_length"] == {"stage2": 4096}
    assert metadata["rows"] == {"in": 9, "out": 9, "dropped": {}}


def test_rows_that_are_too_long_stop_the_run(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stage1\.max_length: rows longer than 16 tokens: mer 9 of 9"):
        run(tmp_path, folders, 4096)
