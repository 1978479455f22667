"""Pipelines on Kubeflow's local runner: shards join to one machine's bytes; a failed check stops what would follow."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List  # noqa: UP035  (kfp reads list types from typing)

import pytest
from kfp import dsl

from emoverse.artifacts.manifest import open_source
from emoverse.compat.kfp import WORKSPACE
from emoverse.config import TINY, CorpusParams, MediaParams, Params, ValidationParams, load_params
from emoverse.errors import UserError
from emoverse.fetching import resolve
from emoverse.report.run_pages import publish_page, write_status
from emoverse.validation.validate import validate
from pipelines.cluster import Cluster, Retries, Volume
from pipelines.options import PipelineOptions, local_arguments
from pipelines.pipeline import Builder, pipeline
from pipelines.run_local import session
from tests.factories import remotes
from tests.factories.meld import make_meld
from tests.factories.remotes import Remote

REPO = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep")  # inside DVC
MEDIA = MediaParams(frames=2, size=32, timeout=20.0)
VALIDATION = ValidationParams(max_quarantined=0.5, min_duration=0.1, max_duration=60.0, max_duration_gap=2.0)


@pytest.fixture
def params(tmp_path: Path) -> Params:
    """Make a small MELD and return parameters that name it alone."""
    make_meld(tmp_path / "MELD", {"train": 3, "dev": 1, "test": 1})
    corpora = {"meld": CorpusParams(root=str(tmp_path / "MELD"))}
    return replace(
        load_params(REPO / "params.yaml", {"base_model.source": TINY}),
        corpora=corpora,
        media=MEDIA,
        validation=VALIDATION,
    )


def test_shards_read_a_corpus_in_the_runs_workspace_and_join_to_the_bytes_of_one_machine(
    params: Params, tmp_path: Path
) -> None:
    validate("meld", tmp_path / "MELD", tmp_path / "direct", MEDIA, VALIDATION)
    root = remotes.repository(tmp_path / "repository", {"README.txt": b"as distributed"})
    shutil.rmtree(root / "raw/MELD")
    shutil.copytree(tmp_path / "MELD", root / "raw/MELD")
    remotes.track(root)
    remotes.use(root, Remote(str(tmp_path / "store")))
    tracked = resolve("raw/MELD", repository=root)
    options = PipelineOptions(shards=2, local=True)
    given = local_arguments(params, tmp_path).as_keywords()
    corpora = [{"corpus": "meld", "root": "", "md5": tracked.md5, "remote": json.dumps({"url": tracked.config["url"]})}]
    names = ("media", "validation", "code_validate")

    @dsl.pipeline(name="validated")
    def validated(
        corpora: list, raw_volume: str, media: dict, validation: dict, code_validate: str
    ) -> List[dsl.Dataset]:  # noqa: UP006
        task = Builder(options, SimpleNamespace(**locals()), import_weights=False).validate()
        return dsl.Collected(task.outputs["validated"])  # type: ignore[return-value]

    with session(tmp_path / "runs"):
        (joined,) = validated(corpora=corpora, raw_volume=WORKSPACE, **{name: given[name] for name in names}).output
    assert open_source(Path(joined.path)).digest == open_source(tmp_path / "direct").digest
    assert joined.metadata["raw"] == {"meld": tracked.md5}
    (note,) = (tmp_path / "runs").rglob("fetch/raw")
    assert Path(json.loads(note.read_text("utf-8"))["folder"]) == tmp_path / "runs/workspace" / tracked.md5
    assert not (tmp_path / "runs/workspace").exists()


def stopped(params: Params, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Run the pipeline of a cluster (stage 1 given) until it stops; return the end it published."""
    (tmp_path / "reports").mkdir()
    cluster = Cluster(
        retries=Retries(count=0),
        volumes=(Volume(claim="c", path=str(tmp_path / "reports")),),
        publish=str(tmp_path / "reports"),
    )
    options = PipelineOptions(start="stage1", model=str(tmp_path / "given"), cluster=cluster)
    arguments = local_arguments(params, tmp_path)
    with pytest.raises(UserError, match="the pipeline stopped"), session(tmp_path / "runs"):
        pipeline(arguments, options)(**{**arguments.as_keywords(), **changes})
    (status,) = (tmp_path / "reports").glob("*/status.json")
    return dict(json.loads(status.read_text("utf-8")))


def steps_of(root: Path) -> set[str]:
    return {path.parent.name for path in root.rglob("executor_output.json")}


def test_too_many_bad_rows_stop_the_run_before_training_and_its_end_is_published(
    params: Params, tmp_path: Path
) -> None:
    for clip in (tmp_path / "MELD").rglob("*.mp4"):
        clip.write_bytes(b"no video")
    end = stopped(params, tmp_path)
    assert end["state"] == "FAILED"
    assert end["report"] is False
    assert steps_of(tmp_path / "runs") == {"fetch", "finish"}  # validate leaves no outputs when it fails


def test_a_page_and_its_runs_end_lie_in_one_folder(tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text("<p>scores", "utf-8")
    (tmp_path / "all").mkdir()
    publish_page(page, "run-1", str(tmp_path / "all"))
    words = write_status(
        "run-1", name="paper", state="SUCCEEDED", task="emoverse", problem="", publish=str(tmp_path / "all")
    )
    assert (tmp_path / "all/run-1/index.html").read_text("utf-8") == "<p>scores"
    assert json.loads((tmp_path / "all/run-1/status.json").read_text("utf-8"))["report"] is True
    assert words.startswith("# paper: SUCCEEDED\n")
    assert str(tmp_path / "all/run-1/index.html") in words


def test_the_end_of_a_failed_run_says_where_it_stopped_and_what_to_do() -> None:
    words = write_status("run-1", name="paper", state="FAILED", task="train", problem="out of memory")
    assert "# paper: FAILED" in words
    assert "Stopped in `train`: out of memory" in words
    assert "a new run takes finished steps from the cache" in words


@pytest.mark.parametrize(("server", "end"), [("COMPLETE", "SUCCEEDED"), ("FAILED", "FAILED"), ("RUNNING", "STOPPED")])
def test_the_states_that_a_server_passes_to_the_exit_handler_are_read_as_ends(
    tmp_path: Path, server: str, end: str
) -> None:
    words = write_status("run-1", name="paper", state=server, task="run", problem="", publish=str(tmp_path))
    assert words.startswith(f"# paper: {end}\n")
    assert json.loads((tmp_path / "run-1/status.json").read_text("utf-8"))["state"] == end
    assert ("`emoverse retry`" in words) == (end == "STOPPED")
    assert ("Stopped in `run`" in words) == (end == "FAILED")


@pytest.mark.parametrize("server", ["RUNNING", "FAILED"])  # a loop from the cache; a step that a retry repeated
def test_a_run_that_published_its_page_has_succeeded_whatever_the_server_recorded(tmp_path: Path, server: str) -> None:
    page = tmp_path / "index.html"
    page.write_text("<p>scores", "utf-8")
    publish_page(page, "run-1", str(tmp_path))
    words = write_status("run-1", name="paper", state=server, task="run", problem="", publish=str(tmp_path))
    assert words.startswith("# paper: SUCCEEDED\n")
    assert "emoverse retry" not in words


@pytest.mark.parametrize("name", ["../run", "a/b", "", ".."])
def test_a_run_cannot_write_outside_the_folder_of_reports(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be a folder name"):
        write_status(name, name="paper", state="SUCCEEDED", task="t", problem="", publish=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_reports_that_is_not_mounted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mount the volume"):
        write_status("run-1", name="paper", state="SUCCEEDED", task="t", problem="", publish=str(tmp_path / "none"))
