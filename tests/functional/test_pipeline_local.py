"""A component on Kubeflow's local runner: the step's own bytes, its manifest as metadata, a cache to be trusted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components.fetch import fetch
from components.validate import validate as component
from emoverse.artifacts.digests import code_digest
from emoverse.artifacts.manifest import open_raw, open_source
from emoverse.config import MediaParams, ValidationParams, plain
from emoverse.errors import UserError
from emoverse.validation.validate import validate
from pipelines.run_local import session
from tests.factories.meld import make_meld

MEDIA = MediaParams(frames=2, size=32, timeout=20.0)
VALIDATION = ValidationParams(max_quarantined=0.5, min_duration=0.1, max_duration=60.0, max_duration_gap=2.0)
Run = Callable[..., dsl.Artifact]


@dsl.pipeline(name="one-corpus")
def one_corpus(root: str, md5: str, media: dict, validation: dict, code: str) -> dsl.Dataset:
    raw = fetch(corpus="meld", md5=md5, remote="", root=root, volume="").outputs["raw"]
    done = component(
        corpus="meld", raw_md5=md5, media=media, validation=validation, code_digest=code, volume="", raw=raw
    )
    return done.outputs["validated"]


def md5_of(raw: Path) -> str:
    source = open_raw(raw, name="meld")
    return str(source.ancestry[source.digest]["dvc_md5"])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the pipeline over ``tmp_path/MELD``; keywords change its arguments."""

    def _run(**changes: Any) -> dsl.Artifact:
        raw = tmp_path / "MELD"
        arguments = {
            "root": str(raw),
            "md5": md5_of(raw),
            "media": plain(MEDIA),
            "validation": plain(VALIDATION),
            "code": code_digest("validate"),
        }
        with session(tmp_path / "runs"):
            return one_corpus(**{**arguments, **changes}).output

    make_meld(tmp_path / "MELD", {"train": 3, "dev": 1, "test": 1})
    return _run


def test_the_component_gives_the_bytes_of_the_step_and_the_cache_tells_what_changed(run: Run, tmp_path: Path) -> None:
    validate("meld", tmp_path / "MELD", tmp_path / "direct", MEDIA, VALIDATION)
    first = run()
    assert open_source(Path(first.path)).digest == open_source(tmp_path / "direct").digest
    assert first.metadata["digest"] == open_source(tmp_path / "direct").digest
    assert first.metadata["raw"] == {"meld": md5_of(tmp_path / "MELD")}
    assert first.metadata["params"]["media"]["size"] == MEDIA.size

    (output,) = (tmp_path / "runs").rglob("validate/executor_output.json")
    (page,) = json.loads(output.read_text("utf-8"))["artifacts"]["page"]["artifacts"]
    names = {"display_name": "validated meld"}, {"display_name": "checks of meld"}
    assert first.metadata == {**first.metadata, **names[0]}
    assert page["metadata"] == {**first.metadata, **names[1]}, "the page says as much about itself as the data does"

    again = run()  # nothing changed: a hit
    assert again.path == first.path

    clip = next((tmp_path / "MELD").rglob("*.mp4"))
    clip.write_bytes(clip.read_bytes() + b"\0")  # one byte of one clip: a miss
    changed = run()
    assert changed.path != first.path
    assert changed.metadata["raw"] != first.metadata["raw"]


def test_other_content_than_the_run_asked_for_is_refused(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"the pipeline stopped: .*but the run asked for 000000"):
        run(md5="0" * 32 + ".dir")
    output = capfd.readouterr().out
    assert "emoverse: " in output
    assert "Traceback" not in output, "a pod's log ends with one line"


def test_other_code_than_the_run_asked_for_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match=r"build the image from the revision that submits the run; then run the same"):
        run(code="0" * 64)
