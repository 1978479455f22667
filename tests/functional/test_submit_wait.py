"""Watch a run: its steps by name, an endpoint that stays silent, pods that go away with their node."""

import itertools
import time
from typing import Any

import pytest
import yaml

from emoverse.cli import main
from emoverse.errors import UserError
from emoverse.http import HttpClient, NoAnswerError
from pipelines.kubeflow_api import KubeflowApi
from pipelines.runs import NODE_LOSS, Run, last_error_line, retry, steps_of, watch
from tests.conftest import REPO
from tests.factories.kubeflow import RUN, WORKFLOW, Kubeflow, kubeflow, node, nodes_of

SPEC = yaml.safe_load((REPO / "pipelines/emoverse.yaml").read_text("utf-8"))
ITERATION = "root.for-loop-1.iteration-iterations({0}:{0}).iteration-item"


def started(cluster: Kubeflow) -> Run:
    cluster.runs.append({"pipeline_spec": SPEC})
    return Run(RUN, "the run's address")


def lost(message: str = "pod deleted") -> dict[str, object]:
    return {"root.base-model": "Succeeded", "root.train-2": ("Error", message)}


def test_an_endpoint_that_stays_silent_is_given_up_at_last() -> None:
    with kubeflow() as cluster:
        cluster.states = [("DOWN", {})]
        with pytest.raises(NoAnswerError, match=r"HTTP 503; .*the run continues"):
            watch(Run(RUN, "the run's address"), host=cluster.host, pause=0.001, patience=2)
        assert [path for _, path in cluster.seen if RUN in path] == [f"/apis/v2beta1/runs/{RUN}"] * 3


def test_silence_for_a_moment_is_borne() -> None:
    lines: list[str] = []
    with kubeflow() as cluster:
        run = started(cluster)
        cluster.states = [("RUNNING", {"root.train": "Running"}), ("DOWN", {}), ("DOWN", {}), ("SUCCEEDED", {})]
        watch(run, host=cluster.host, pause=0.001, patience=2, say=lines.append)
    assert [line.split() for line in lines] == [["running", "train", "stage1"]]


@pytest.mark.parametrize(
    "message",
    ["Unschedulable: 0/1 nodes are available: 1 Insufficient memory.", 'ImagePullBackOff: Back-off pulling image "x"'],
)
def test_a_pod_that_cannot_start_is_shown_with_the_reason(message: str) -> None:
    lines: list[str] = []
    with kubeflow() as cluster:
        run = started(cluster)
        creating = ("RUNNING", {"root.train": ("Pending", "ContainerCreating")})
        waiting = ("RUNNING", {"root.train": ("Pending", message)})
        cluster.states = [creating, waiting, waiting, ("SUCCEEDED", {"root.train": "Succeeded"})]
        watch(run, host=cluster.host, pause=0.001, say=lines.append)
    assert [" ".join(line.split()) for line in lines] == [
        "pending train stage1", f"pending train stage1 ({message})", "succeeded 90 s train stage1",
    ]  # fmt: skip


def test_the_steps_of_a_workflow_above_a_megabyte_are_read() -> None:
    lines: list[str] = []
    with kubeflow() as cluster:
        run = started(cluster)
        cluster.compressed = True
        cluster.states = [("SUCCEEDED", {"root.train": "Succeeded", "root.export": "Skipped"})]
        watch(run, host=cluster.host, pause=0.001, say=lines.append)
    assert [line.split() for line in lines] == [["succeeded", "90", "s", "train", "stage1"], ["cached", "export"]]


def test_steps_have_the_names_of_the_pipeline_and_of_their_corpus() -> None:
    steps = {f"{ITERATION.format(n)}.{task}": "Succeeded" for n in range(3) for task in ("fetch", "validate")}
    nodes = nodes_of({**steps, "root.import-base-model": "Skipped", "root.train": "Pending"})
    for part in ("for-loop-1", "for-loop-1.iteration-driver", "for-loop-1.iteration-iterations"):
        nodes.append(node(f"root.{part}", "Succeeded"))
    nodes += [node(f"{ITERATION.format(n)}-driver", "Succeeded") for n in range(3)]
    workflow = {"metadata": {"name": WORKFLOW}, "status": {"nodes": {one["id"]: one for one in nodes}}}
    corpora = {"corpora": [{"corpus": name} for name in ("meld", "ecf", "mosei")]}
    found = {step.name: step.state for step in steps_of(workflow, SPEC, corpora)}
    named = {f"{task} {name}" for task in ("fetch", "validate") for name in ("meld", "ecf", "mosei")}
    assert found == {**dict.fromkeys(named, "succeeded"), "base-model": "cached", "train stage1": "pending"}


def test_a_retried_container_is_one_step_with_the_log_of_its_last_pod() -> None:
    nodes = [
        node("root.train-driver", "Succeeded"), node("root.train.executor", "Failed", kind="Retry"),
        node("root.train.executor(0)", "Failed", "Error (exit code 2)"),
        {**node("root.train.executor(1)", "Error", "pod deleted"), "startedAt": "2026-01-02T00:00:00Z"},
    ]  # fmt: skip
    workflow = {"metadata": {"name": WORKFLOW}, "status": {"nodes": {one["id"]: one for one in nodes}}}
    (step,) = steps_of(workflow, SPEC, {})
    assert (step.name, step.state, step.message, step.lost) == ("train stage1", "failed", "pod deleted", True)
    assert step.pod == f"{WORKFLOW}-system-container-impl-{nodes[3]['id'].rpartition('-')[2]}"


@pytest.mark.parametrize("phase", ["Pending", "Running", "Succeeded"])
def test_a_step_is_pending_as_long_as_only_its_driver_runs(phase: str) -> None:
    nodes = [node("root.train-driver", phase)]
    workflow = {"metadata": {"name": WORKFLOW}, "status": {"nodes": {one["id"]: one for one in nodes}}}
    assert [step.state for step in steps_of(workflow, SPEC, {})] == ["pending"]


def test_steps_that_are_omitted_after_a_failure_are_not_pending() -> None:
    nodes = [node("root.train.executor", "Failed", "Error"), node("root.evaluate-driver", "Omitted")]
    workflow = {"metadata": {"name": WORKFLOW}, "status": {"nodes": {one["id"]: one for one in nodes}}}
    assert [(step.name, step.state) for step in steps_of(workflow, SPEC, {})] == [("train stage1", "failed")]


def test_a_driver_that_fails_is_its_steps_failure() -> None:
    nodes = [node("root.train-driver", "Failed", "no execution found")]
    workflow = {"metadata": {"name": WORKFLOW}, "status": {"nodes": {one["id"]: one for one in nodes}}}
    (step,) = steps_of(workflow, SPEC, {})
    assert (step.name, step.state, step.message) == ("train stage1", "failed", "no execution found")


@pytest.mark.parametrize(
    "message",
    [
        "pod deleted",
        "The node was low on resource: memory.",
        "Pod was terminated in response to imminent node shutdown.",
        "Evicted",
        "NodeLost",
        "Preempted in order to admit critical pod",
        "pod deleted during operation",
        "main: Error (exit code 143)",
    ],
)
def test_waiting_retries_a_run_whose_pod_went_away_with_its_node(message: str) -> None:
    lines: list[str] = []
    with kubeflow() as cluster:
        run = started(cluster)
        ended = ("FAILED", lost(message))
        cluster.states = [ended, ended, ("RUNNING", {"root.train-2": "Running"}), ("SUCCEEDED", {})]
        watch(run, host=cluster.host, pause=0.001, retries=1, say=lines.append)
        assert cluster.retried == [RUN]
    assert f"retry 1 of 1: train stage2: {message}" in lines


def test_a_run_is_retried_no_more_often_than_the_profile_says() -> None:
    with kubeflow() as cluster:
        run = started(cluster)
        cluster.states = [("FAILED", lost())]
        with pytest.raises(UserError, match=f"train stage2: pod deleted; run `emoverse retry {RUN}`"):
            watch(run, host=cluster.host, pause=0.001, retries=2, say=lambda _: None)
        assert cluster.retried == [RUN, RUN]


@pytest.mark.parametrize("message", ["Error (exit code 2)", "OOMKilled (exit code 137)", "ImagePullBackOff", ""])
def test_a_step_that_failed_by_itself_is_not_retried(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not NODE_LOSS.search(message)
    with kubeflow() as cluster:
        run = started(cluster)
        cluster.states = [("FAILED", lost(message))]
        cluster.logs = {"root.train-2": "emoverse: stage2: rows are too long; shorten them\n"}
        with pytest.raises(UserError, match="train stage2: emoverse: stage2: rows are too long"):
            watch(run, host=cluster.host, pause=0.001, retries=3, say=lambda _: None)
        with pytest.raises(UserError, match="failed by itself: emoverse: stage2: rows are too long"):
            retry(run, host=cluster.host)
        assert cluster.retried == []
        assert main(["retry", RUN, "--host", cluster.host, "--force"]) == 0
        assert cluster.retried == [RUN]
    assert "again: train stage2" in capsys.readouterr().out


REFUSED = (
    "F1129 21:41:07.104211       1 main.go:57] failed to execute component: failed to update the task: "
    'rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing: '
    'dial tcp 10.96.0.20:8887: connect: connection refused"\n'
)


def test_a_step_whose_launcher_got_no_answer_from_the_server_is_retried() -> None:
    lines: list[str] = []
    with kubeflow() as cluster:
        run = started(cluster)
        ended = ("FAILED", lost("Error (exit code 1)"))
        cluster.states = [ended, ended, ("RUNNING", {"root.train-2": "Running"}), ("SUCCEEDED", {})]
        cluster.logs = {"root.train-2": "stage2: step 12/12\n" + REFUSED}
        watch(run, host=cluster.host, pause=0.001, retries=1, say=lines.append)
        assert cluster.retried == [RUN]
    assert any(line.startswith("retry 1 of 1: train stage2") for line in lines)


def test_a_step_that_reports_an_error_of_its_own_is_not_retried_for_a_server_without_an_answer() -> None:
    with kubeflow() as cluster:
        run = started(cluster)
        cluster.states = [("FAILED", lost("Error (exit code 1)"))]
        cluster.logs = {"root.train-2": "emoverse: stage2: rows are too long; shorten them\n" + REFUSED}
        with pytest.raises(UserError, match="train stage2: emoverse: stage2: rows are too long"):
            watch(run, host=cluster.host, pause=0.001, retries=1, say=lambda _: None)
        assert cluster.retried == []


@pytest.mark.parametrize(
    ("archived", "words"),
    [(True, "evaluate: emoverse: there is no model; train one"), (False, r"evaluate: Error \(exit code 2\); correct")],
)
def test_the_log_of_a_pod_that_is_gone_comes_from_the_archive(archived: bool, words: str) -> None:
    with kubeflow() as cluster:
        run = started(cluster)
        cluster.states = [("FAILED", {"root.evaluate": ("Failed", "Error (exit code 2)")})]
        cluster.logs = {"root.evaluate": "emoverse: there is no model; train one\n"} if archived else {}
        cluster.archived = {"root.evaluate"}
        with pytest.raises(UserError, match=words):
            watch(run, host=cluster.host, pause=0.001, say=lambda _: None)


@pytest.mark.parametrize("ui", [True, False], ids=["ui", "api-server"])
def test_the_message_is_found_at_the_address_of_the_ui_and_of_the_api_server(ui: bool) -> None:
    with kubeflow() as cluster:
        run = started(cluster)
        cluster.ui = ui
        cluster.states = [("FAILED", {"root.evaluate": ("Failed", "Error (exit code 2)")})]
        cluster.logs = {"root.evaluate": "emoverse: there is no model; train one\n"}
        with pytest.raises(UserError, match="evaluate: emoverse: there is no model; train one"):
            watch(run, host=cluster.host, pause=0.001, say=lambda _: None)


def test_a_log_without_an_answer_does_not_hide_that_the_run_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    with kubeflow() as cluster:
        run, answer = started(cluster), cluster.answer
        cluster.states = [("FAILED", {"root.evaluate": ("Failed", "Error (exit code 2)")})]

        def without_logs(method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
            if "log" in path:
                raise ConnectionAbortedError  # the client sees a closed connection
            return answer(method, path, query, body)

        monkeypatch.setattr(cluster, "answer", without_logs)
        with pytest.raises(UserError, match=r"evaluate: Error \(exit code 2\)"):
            watch(run, host=cluster.host, pause=0.001, say=lambda _: None)


def test_a_slow_list_of_runs_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with kubeflow() as cluster:
        api, answer = KubeflowApi(cluster.host), cluster.answer
        monkeypatch.setattr(api, "_client", HttpClient(retries=0, timeout=0.1))

        def slowly(method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
            time.sleep(0.5)
            return answer(method, path, query, body)

        monkeypatch.setattr(cluster, "answer", slowly)
        assert api.runs() == []


def test_a_run_that_was_terminated_can_be_retried_and_one_that_goes_on_cannot() -> None:
    with kubeflow() as cluster:
        run = started(cluster)
        # Kubeflow 2.17 calls a terminated run failed, and the node's message is that of a drain.
        cluster.terminated = True
        cluster.states = [("FAILED", {"root.train": ("Failed", "main: Error (exit code 143)")})]
        cluster.logs = {"root.train": "step 3 of 9\n"}
        with pytest.raises(UserError, match=f"train stage1: the run was terminated; run `emoverse retry {RUN}`"):
            watch(run, host=cluster.host, pause=0.001, retries=3, say=lambda _: None)
        assert cluster.retried == []
        retry(run, host=cluster.host)
        assert cluster.retried == [RUN]
        cluster.states = [("RUNNING", {})]
        with pytest.raises(UserError, match="the run is running; only a run that failed"):
            retry(run, host=cluster.host)


def test_a_run_is_watched_later_by_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    with kubeflow() as cluster:
        started(cluster)
        cluster.states = [("RUNNING", {"root.report": "Running"}), ("SUCCEEDED", {"root.report": "Succeeded"})]
        assert main(["watch", RUN, "--host", cluster.host, "--every", "0.01"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["running", "succeeded"]


LINES = ("I0101 00:00:00.0 launcher", "F0101 00:00:00.0 exit status 2", 'time="2026" level=info', "", "step 3 of 9")


@pytest.mark.parametrize("lines", list(itertools.permutations(LINES))[::7])
def test_the_last_line_of_ours_is_found_among_kubeflows_own(lines: tuple[str, ...]) -> None:
    assert last_error_line("\n".join(lines)) == "step 3 of 9"
    for place in range(len(lines) + 1):
        text = "\n".join([*lines[:place], "emoverse: no such file; correct it", *lines[place:]])
        assert last_error_line(text) == "emoverse: no such file; correct it"
