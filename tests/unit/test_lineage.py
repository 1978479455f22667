"""An output alone tells what it was made from, back to the raw corpora and the .dvc files that name them."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from emoverse.artifacts.digests import code_digest, digest_of_raw
from emoverse.artifacts.lineage import (
    as_json,
    as_lines,
    check_code,
    dvc_files,
    folder_of,
    made_by_other_code,
    metadata_of,
    revision,
    trace,
)
from emoverse.artifacts.manifest import open_raw, open_source, publish
from emoverse.cli.__init__ import main
from emoverse.errors import UserError

Say = Callable[[list[str]], str]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Publish raw -> validate -> amt -> train in ``tmp_path``, with a .dvc file for the raw corpus."""
    raw = tmp_path / "data/raw/MELD"
    raw.mkdir(parents=True)
    (raw / "labels.csv").write_text("id,label\n1,joy\n", "utf-8")
    (tmp_path / "data/raw/MELD.dvc").write_text(
        f"outs:\n- md5: {digest_of_raw(raw)[1]}\n  size: 17\n  nfiles: 1\n  hash: md5\n  path: MELD\n", "utf-8"
    )
    source = open_raw(raw, name="meld")
    validated = _publish(tmp_path / "data/validated/meld", "validate", "meld", {"raw": source})
    inputs = {"validated/meld": open_source(validated)}
    amt = _publish(tmp_path / "data/amt", "build-amt", "", inputs)
    _publish(tmp_path / "data/stage1", "train", "stage1", {**inputs, "amt": open_source(amt)})
    return tmp_path


def _publish(out: Path, step: str, name: str, inputs: dict) -> Path:  # type: ignore[type-arg]
    with publish(out, step=step, name=name, params={"seed": 1}, inputs=inputs) as draft:
        (draft.path / "made").write_text(f"by {step}", "utf-8")
        draft.count(rows_in=2, rows_out=1, dropped={"bad-label": 1})
    return out


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def _say(words: list[str]) -> str:
        assert main(words) == 0
        return capsys.readouterr().out

    return _say


def test_the_tree_leads_back_to_the_dvc_file(folders: Path, say: Say) -> None:
    printed = say(["lineage", str(folders / "data/stage1"), "--repo", str(folders)])
    md5 = digest_of_raw(folders / "data/raw/MELD")[1]
    assert f"raw meld  md5 {md5}  data/raw/MELD.dvc" in printed
    assert printed.startswith("train stage1  ")
    assert "rows 2 in, 1 out" in printed


def test_a_branch_that_came_before_is_named_and_not_drawn_again(folders: Path) -> None:
    lines = as_lines(trace(folders / "data/stage1"), {})
    assert sum("raw meld" in line for line in lines) == 1
    assert sum("(see above)" in line for line in lines) == 1


def test_the_folder_alone_suffices(folders: Path, tmp_path_factory: pytest.TempPathFactory, say: Say) -> None:
    alone = tmp_path_factory.mktemp("elsewhere") / "stage1"
    shutil.copytree(folders / "data/stage1", alone)
    md5 = digest_of_raw(folders / "data/raw/MELD")[1]
    shutil.rmtree(folders / "data")
    printed = say(["lineage", str(alone), "--repo", str(folders)])
    assert f"md5 {md5}  (no .dvc file here names it)" in printed


def test_a_file_inside_an_output_stands_for_its_folder(folders: Path) -> None:
    assert folder_of(folders / "data/amt/made") == folders / "data/amt"


def test_json_holds_the_same_chain(folders: Path, say: Say) -> None:
    tree = json.loads(say(["lineage", str(folders / "data/stage1"), "--json", "--repo", str(folders)]))
    assert tree["digest"] == open_source(folders / "data/stage1").digest
    raw = tree["inputs"]["amt"]["inputs"]["validated/meld"]["inputs"]["raw"]
    assert raw["dvc_file"] == "data/raw/MELD.dvc"
    assert tree["made_by_other_code"] == []


def test_check_finds_a_changed_byte(folders: Path) -> None:
    (folders / "data/amt/made").write_text("forged", "utf-8")
    words = ["lineage", str(folders / "data/amt"), "--repo", str(folders)]
    assert main(words) == 0
    assert main([*words, "--check"]) == 2


def test_a_circle_drawn_by_a_forger_ends(folders: Path) -> None:
    path = folders / "data/amt/manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["inputs"] = {"itself": manifest["outputs"]["digest"]}
    path.write_text(json.dumps(manifest), "utf-8")
    assert [node.step for node in trace(folders / "data/amt").inputs.values()] == ["unknown"]


def test_code_that_is_not_this_installation_s_is_named(folders: Path) -> None:
    path = folders / "data/amt/manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    assert made_by_other_code(trace(folders / "data/amt")) == []
    path.write_text(json.dumps({**manifest, "code": "0" * 64}), "utf-8")
    assert made_by_other_code(trace(folders / "data/amt")) == ["build-amt"]


def test_artifact_metadata_answers_which_data_code_and_parameters(folders: Path) -> None:
    found = metadata_of(folders / "data/stage1")
    assert found["digest"] == open_source(folders / "data/stage1").digest
    assert found["params"] == {"seed": 1}
    assert found["rows"] == {"in": 2, "out": 1, "dropped": {"bad-label": 1}}
    assert found["raw"] == {"meld": digest_of_raw(folders / "data/raw/MELD")[1]}
    assert [line.split()[0] for line in found["made_from"]] == ["build-amt", "validate", "raw"]
    assert len(json.dumps(found)) < 100_000
    assert found["step"] == "train stage1"
    assert "name" not in found, "Kubeflow's UI would list the artifact by it, not by its display_name"


def test_a_run_that_asked_for_other_code_is_refused() -> None:
    check_code("validate", code_digest("validate"))
    check_code("validate", "")
    with pytest.raises(UserError, match="the run asked for 000000000000; build the image from the revision"):
        check_code("validate", "0" * 64)


def test_a_run_that_asked_for_other_data_is_refused(folders: Path) -> None:
    validated, md5 = folders / "data/validated/meld", digest_of_raw(folders / "data/raw/MELD")[1]
    metadata_of(validated, raw=md5)
    with pytest.raises(UserError, match="the run asked for feed"):
        metadata_of(validated, raw="feed.dir")
    with pytest.raises(UserError, match="the run names no MD5"):
        metadata_of(validated, raw="")


def test_a_broken_dvc_file_is_named(folders: Path) -> None:
    (folders / "data/raw/ECF.dvc").write_text("outs: [", "utf-8")
    with pytest.raises(UserError, match=r"ECF\.dvc: not a valid \.dvc file"):
        dvc_files(folders)


def test_hidden_folders_are_not_searched_for_dvc_files(folders: Path) -> None:
    (folders / ".venv").mkdir()
    (folders / ".venv/junk.dvc").write_text("outs: [", "utf-8")
    assert list(dvc_files(folders).values()) == ["data/raw/MELD.dvc"]


def test_what_dvcignore_excludes_is_not_searched_for_dvc_files(folders: Path) -> None:
    (folders / ".dvcignore").write_text("/old/\n*.bak.dvc\n!keep.bak.dvc\n", "utf-8")
    (folders / "data/.dvcignore").write_text("/copies\n", "utf-8")
    for name in ("old/junk.dvc", "data/copies/junk.dvc", "data/x.bak.dvc"):
        (folders / name).parent.mkdir(exist_ok=True)
        (folders / name).write_text("outs: [", "utf-8")
    (folders / "data/keep.bak.dvc").write_text("outs:\n- md5: abc\n  path: keep\n", "utf-8")
    assert sorted(dvc_files(folders).values()) == ["data/keep.bak.dvc", "data/raw/MELD.dvc"]


def test_the_revision_says_when_files_differ_from_the_commit(tmp_path: Path) -> None:
    assert revision(tmp_path) == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (tmp_path / "a").write_text("1", "utf-8")
    for words in (["init", "-q"], ["add", "a"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    clean = revision(tmp_path)
    assert len(clean) == 40
    (tmp_path / "a").write_text("2", "utf-8")
    assert revision(tmp_path) == f"{clean}-dirty"


def test_the_tree_as_json_names_every_input(folders: Path) -> None:
    tree = as_json(trace(folders / "data/stage1"), {})
    assert set(tree["inputs"]) == {"amt", "validated/meld"}
    assert tree["rows"] == {"in": 2, "out": 1, "dropped": {"bad-label": 1}}
