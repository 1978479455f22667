"""A folder is published at once, says what made it, and is refused when it no longer is what it says."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from emoverse.artifacts.digests import MANIFEST, folder_files
from emoverse.artifacts.manifest import Source, copy_without_weights, open_raw, open_source, publish, read_manifest
from emoverse.errors import UserError

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Publish a small output folder below ``tmp_path`` from given inputs."""

    def _make(name: str = "out", text: str = "hello", inputs: dict[str, Source] | None = None) -> Path:
        out = tmp_path / name
        with publish(out, step=name, params={"seed": 1}, inputs=inputs or {}, code_of="report") as draft:
            (draft.path / "deep").mkdir()
            (draft.path / "deep/a.txt").write_text(text, "utf-8")
            draft.count(rows_in=3, rows_out=2, dropped={"bad-label": 1})
        return out

    return _make


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw corpus"
    folder.mkdir()
    (folder / "labels.csv").write_text("id,label\n1,joy\n", "utf-8")
    return folder


def test_the_same_inputs_give_the_same_bytes(make: Make) -> None:
    one = (make() / MANIFEST).read_bytes()
    two = (make() / MANIFEST).read_bytes()
    assert one == two


def test_the_manifest_holds_no_clock_host_or_absolute_path(make: Make, raw: Path, tmp_path: Path) -> None:
    text = (make(inputs={"raw": open_raw(raw, name="meld")}) / MANIFEST).read_text("utf-8")
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    assert socket.gethostname() not in text
    assert not any(word in text for word in ("started", "seconds", "host"))


def test_times_and_host_go_beside_the_folder(make: Make, tmp_path: Path) -> None:
    make()
    run = json.loads((tmp_path / "out.run.json").read_text("utf-8"))
    assert run["host"] == socket.gethostname()
    assert run["seconds"] >= 0


def test_ancestry_reaches_back_to_the_raw_corpus_and_its_dvc_md5(make: Make, raw: Path) -> None:
    source = open_raw(raw, name="meld")
    one = make("validate", "one", inputs={"raw": source})
    two = make("build", "two", inputs={"validated": open_source(one)})
    three = read_manifest(make("train", "three", inputs={"amt": open_source(two)}))
    record = three["ancestry"][source.digest]
    assert record["name"] == "meld"
    assert record["dvc_md5"].endswith(".dir")
    assert {r["step"] for r in three["ancestry"].values()} == {"raw", "validate", "build"}


def test_a_second_publish_replaces_the_whole_folder(make: Make, tmp_path: Path) -> None:
    out = make()
    with publish(out, step="out", params={}, inputs={}, code_of="report") as draft:
        (draft.path / "b.txt").write_text("other", "utf-8")
    assert list(folder_files(out)) == ["b.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.lock", "out", "out.run.json"]


def test_an_error_in_the_body_keeps_the_earlier_output_and_leaves_no_draft(make: Make, tmp_path: Path) -> None:
    out = make(text="good")

    def fail() -> None:
        with publish(out, step="out", params={}, inputs={}, code_of="report") as draft:
            (draft.path / "a.txt").write_text("half", "utf-8")
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        fail()
    assert (out / "deep/a.txt").read_text("utf-8") == "good"
    assert open_source(out).manifest["rows"] == {"in": 3, "out": 2, "dropped": {"bad-label": 1}}
    assert not (tmp_path / ".out.partial").exists()


def test_rows_that_vanish_stop_the_step(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="rows lost silently: 10 in, 7 out"),
        publish(tmp_path / "out", step="s", params={}, inputs={}, code_of="report") as draft,
    ):
        draft.count(rows_in=10, rows_out=7, dropped={"duplicate-id": 2})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("harm", "printed"),
    [
        (lambda out: (out / "deep/a.txt").write_text("hellO"), "deep/a.txt changed"),
        (lambda out: (out / "deep/a.txt").unlink(), "deep/a.txt is missing"),
        (lambda out: (out / "new.txt").write_text("x"), "new.txt is not in the manifest"),
        (lambda out: (out / MANIFEST).unlink(), "unfinished: it has no manifest.json"),
        (lambda out: (out / MANIFEST).write_text("{"), "not valid JSON"),
        (lambda out: (out / MANIFEST).write_text('{"schema": NaN}'), "NaN is not a JSON value"),
        (lambda out: (out / MANIFEST).write_text("[]"), "not a manifest of schema 1"),
        (lambda out: (out / MANIFEST).write_text('{"schema": 99}'), "not a manifest of schema 1"),
    ],
)
def test_a_folder_that_is_not_what_its_manifest_says_is_refused(
    make: Make, harm: Callable[[Path], object], printed: str
) -> None:
    out = make()
    harm(out)
    with pytest.raises(UserError) as caught:
        open_source(out, made_by="out")
    assert printed in str(caught.value)
    assert str(out) in str(caught.value)
    assert caught.value.remedy


def test_a_copy_without_weights_is_the_same_source_for_who_needs_none(tmp_path: Path) -> None:
    out, light = tmp_path / "out", tmp_path / "light"
    with publish(out, step="train", params={}, inputs={}) as draft:
        for name in ("model/model.safetensors", "model/config.json", "decoder.onnx", "decoder.onnx.data", "log.jsonl"):
            (draft.path / name).parent.mkdir(exist_ok=True)
            (draft.path / name).write_text(name, "utf-8")
    copy_without_weights(out, light)
    assert set(folder_files(light)) == {"model/config.json", "log.jsonl"}
    assert open_source(light, weights=False).digest == open_source(out).digest
    with pytest.raises(UserError, match=r"decoder\.onnx is missing"):
        open_source(light)
    (light / "model/config.json").write_text("forged", "utf-8")
    with pytest.raises(UserError, match=r"model/config\.json changed"):
        open_source(light, weights=False)


def test_a_changed_file_is_found_even_when_the_manifest_was_changed_to_match(make: Make) -> None:
    out = make()
    (out / "deep/a.txt").write_text("forged", "utf-8")
    manifest = read_manifest(out)
    manifest["outputs"]["files"] = folder_files(out)
    (out / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(UserError, match="its digest is not that of the files it lists"):
        open_source(out)


def test_the_output_of_another_step_is_refused(make: Make) -> None:
    with pytest.raises(UserError, match="an output of 'out', not of 'build-amt'"):
        open_source(make(), made_by="build-amt")


def test_an_empty_folder_is_no_raw_corpus(tmp_path: Path) -> None:
    (tmp_path / "MELD").mkdir()
    for folder in (tmp_path / "MELD", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="the raw corpus 'meld' is not here; run `dvc pull`"):
            open_raw(folder, name="meld")


def test_a_step_never_replaces_what_no_step_made(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    for out, says in ((tmp_path / "notes.txt", "is a file"), (tmp_path, "no step wrote it")):
        with pytest.raises(UserError, match=says), publish(out, step="s", params={}, inputs={}, code_of="report"):
            raise AssertionError("not reached")
    assert (tmp_path / "notes.txt").read_text("utf-8") == "mine"


def test_an_output_that_would_change_its_input_is_refused(make: Make, raw: Path) -> None:
    inputs = {"raw": open_raw(raw, name="meld")}
    with pytest.raises(UserError, match="overlaps the input 'raw'"):
        make(f"{raw.name}/out", inputs=inputs)
    made = make()
    with pytest.raises(UserError, match="overlaps the input 'before'"):
        make(inputs={"before": open_source(made)})
    assert read_manifest(made)["step"] == "out"


@pytest.mark.parametrize("key", ["step", "outputs", "ancestry", "rows"])
def test_a_manifest_that_lost_a_key_is_none(make: Make, key: str) -> None:
    path = make() / MANIFEST
    whole = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({name: value for name, value in whole.items() if name != key}), "utf-8")
    with pytest.raises(UserError, match="not a manifest of schema 1; run its step again"):
        open_source(path.parent)
