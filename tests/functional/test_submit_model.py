"""--model and --original are looked at where Kubeflow will import them from, and its cache is told what lies there."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from emoverse.artifacts.digests import MANIFEST
from emoverse.artifacts.lineage import check_given
from emoverse.artifacts.manifest import publish
from emoverse.cli.__init__ import main
from emoverse.config import load_params
from emoverse.errors import UserError
from pipelines.checks import digest_of_model
from pipelines.options import PipelineOptions
from pipelines.pipeline import compile_to
from tests.factories import remotes
from tests.factories.kubeflow import kubeflow, tasks_of

REPO = Path(__file__).resolve().parents[2]
IMAGE = "example.org/team/emoverse-python@sha256:" + "5" * 64
INDEX = "model.safetensors.index.json"
Put = Callable[[str, dict[str, bytes]], str]


@pytest.fixture(scope="module")
def put() -> Iterator[Put]:
    """Put files into a bucket of a real S3 server, reached as the environment says; return the folder's address."""
    with remotes.s3() as remote, pytest.MonkeyPatch.context() as patch:
        for name, value in {**remote.variables, "AWS_ENDPOINT_URL": remote.settings["endpointurl"]}.items():
            patch.setenv(name, value)
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")

        def _put(folder: str, files: dict[str, bytes]) -> str:
            for name, content in files.items():
                client.put_object(Bucket="corpora", Key=f"{folder}/{name}", Body=content)
            return f"s3://corpora/{folder}"

        yield _put


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """Make a finished stage's folder, as small as can be."""
    with publish(tmp_path / "stage1", step="train", name="stage1", params={}, inputs={}) as draft:
        (draft.path / "model").mkdir()
        (draft.path / "model/model.safetensors").write_bytes(b"weights")
    return tmp_path / "stage1"


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_finished_stage_is_known_by_the_digest_of_its_manifest(put: Put, stage: Path) -> None:
    digest = json.loads((stage / MANIFEST).read_text("utf-8"))["outputs"]["digest"]
    assert digest_of_model(put("whole", files_of(stage)) + "/", finished=True) == digest
    check_given(stage, digest)
    with pytest.raises(UserError, match="it was replaced since the run was submitted"):
        check_given(stage, "0" * 64)


def test_an_original_checkpoint_is_known_by_its_listing(put: Put) -> None:
    uri = put("original", {"config.json": b"{}", "model.safetensors": b"one"})
    first = digest_of_model(uri, finished=False)
    assert digest_of_model(uri, finished=False) == first
    put("original", {"model.safetensors": b"two"})  # of the same size
    assert digest_of_model(uri, finished=False) != first


@pytest.mark.parametrize(
    ("files", "finished", "words"),
    [
        ({}, True, "no such folder"),
        ({"model/model.safetensors": b"w"}, True, f"lacks 1 of its files, such as {MANIFEST}"),
        ({MANIFEST: b'{"outputs": {"digest": "0", "files": {"model/model.safetensors": "0"}}}'}, True,
         "such as model/model.safetensors; copy the whole folder that `emoverse train` left"),
        ({MANIFEST: b"[]"}, True, "not valid JSON"),
        ({MANIFEST: b"{}"}, True, "not the manifest of a step"),
        ({"model.safetensors": b"w"}, False, "lacks 1 of its files, such as config.json"),
        ({"config.json": b"{}"}, False, "holds no weights"),
        ({"config.json": b"{}", INDEX: b'{"weight_map": {"a": "model-1-of-1.safetensors"}}'}, False,
         "such as model-1-of-1.safetensors; download the checkpoint again"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_there_or_not_whole_is_refused(
    put: Put, request: pytest.FixtureRequest, files: dict[str, bytes], finished: bool, words: str
) -> None:
    with pytest.raises(UserError) as caught:
        digest_of_model(put(request.node.callspec.id, files), finished=finished)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("data/stage1", "Kubeflow imports models only from gs://, s3://, minio:// and oci://"),
        ("https://example.org/stage1", "Kubeflow imports models only from"),
        ("minio://models/stage1", "--unchecked model"),
    ],
)
def test_a_place_that_kubeflow_or_this_machine_cannot_look_into_is_refused(uri: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        digest_of_model(uri, finished=True)
    assert words in str(caught.value)


def test_a_store_that_gives_no_answer_is_refused(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"the store does not answer: .*check the address and this machine's credent"):
        digest_of_model("s3://elsewhere/stage1", finished=True)


def test_submit_refuses_a_model_that_is_not_there_before_anything_runs(
    put: Put, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    with kubeflow() as cluster:
        words = [
            "submit",
            "--host",
            cluster.host,
            "--image-data",
            IMAGE,
            "--image-train",
            IMAGE,
            "--unchecked",
            "image",
        ]
        assert main([*words, "--model", "s3://corpora/none"]) == 2
        assert cluster.runs == []
    assert "s3://corpora/none: no such folder; copy the model's folder there" in capsys.readouterr().err


def compiled(folder: Path, options: PipelineOptions, **overrides: Any) -> Any:
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    compile_to(folder / "p.yaml", load_params(REPO / "params.yaml", keys), base=REPO, options=options)
    whole = yaml.safe_load((folder / "p.yaml").read_text("utf-8"))
    return whole["deploymentSpec"]["executors"]["exec-importer"]["importer"], tasks_of(whole)


@pytest.mark.parametrize(
    ("start", "task", "parameter"), [("stage1", "train", "model_digest"), ("convert", "convert", "source_digest")]
)
def test_kubeflows_cache_is_told_what_lies_there_or_imports_it_anew(
    tmp_path: Path, start: Any, task: str, parameter: str
) -> None:
    uri = "s3://models/stage1"
    importer, tasks = compiled(tmp_path, PipelineOptions(start=start, model=uri, model_digest="abc"))
    assert "reimport" not in importer
    assert tasks[task]["inputs"]["parameters"][parameter] == {"runtimeValue": {"constant": "abc"}}
    importer, _ = compiled(tmp_path, PipelineOptions(start=start, model=uri))
    assert importer["reimport"] is True


def test_a_given_stage_whose_adapter_was_to_be_trained_further_is_refused(tmp_path: Path) -> None:
    changes = {"train__tuner": "lora", "stage2__start": "adapter"}
    with pytest.raises(UserError, match=r"stage2.start: .*set stage2.start=merged"):
        compiled(tmp_path, PipelineOptions(start="stage1", model="s3://models/stage1"), **changes)
