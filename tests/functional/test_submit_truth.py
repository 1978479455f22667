"""submit reports a started run only when Kubeflow has given its id, whatever stands between it and Kubeflow."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emoverse.errors import UserError
from emoverse.http import NoAnswerError
from pipelines.kubeflow_api import KubeflowApi, api_address
from pipelines.runs import Run, watch
from tests.factories.kubeflow import RUN, Kubeflow, kubeflow

LOGIN = b"<!doctype html><html>login</html>"
TEXT = "pipelineInfo: {name: emoverse}\n"
REQUESTS = ("GET healthz", "GET experiments", "POST experiments", "POST runs")


@pytest.fixture
def cluster() -> Iterator[Kubeflow]:
    with kubeflow() as made:
        yield made


def replace_answer(cluster: Kubeflow, which: str, answer: tuple[int, Any]) -> None:
    """Let one request be answered by something that stands before Kubeflow."""
    usual = cluster.answer

    def answered(method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        where = f"{method} {path.removeprefix('/apis/v2beta1/')}"
        return answer if where == which else usual(method, path, query, body)

    cluster.answer = answered  # type: ignore[method-assign]


def start(host: str) -> str:
    api = KubeflowApi(host, retries=0)
    api.health()
    version = api.upload("emoverse", "v1", TEXT, description="d", namespace="team")
    return api.start_run(api.experiment("paper", "team"), "name", version, {}, "d")


def test_a_run_is_started_by_its_id(cluster: Kubeflow) -> None:
    assert start(cluster.host) == RUN
    assert cluster.experiments[0]["namespace"] == "team"


@pytest.mark.parametrize("which", REQUESTS)
@pytest.mark.parametrize("answer", [(200, LOGIN), (200, b""), (200, [1]), (302, b"")])
def test_what_is_not_kubeflow_s_answer_is_no_started_run(
    cluster: Kubeflow, which: str, answer: tuple[int, Any]
) -> None:
    replace_answer(cluster, which, answer)
    with pytest.raises(UserError, match=r"not|something else than|refuses"):
        start(cluster.host)


@pytest.mark.parametrize("which", REQUESTS[2:])
@pytest.mark.parametrize("answer", [{}, {"run_id": None}, {"run_id": "", "experiment_id": 7}])
def test_an_answer_without_an_id_is_no_started_run(cluster: Kubeflow, which: str, answer: dict[str, Any]) -> None:
    replace_answer(cluster, which, (200, answer))
    with pytest.raises(UserError, match="no run was started"):
        start(cluster.host)


@pytest.mark.parametrize(("answer", "text"), [
    ((401, {"error": "Jwt is expired"}), "the token is refused or has expired; put a fresh token into KUBEFLOW_TOKEN"),
    ((200, LOGIN), "answers something else than Kubeflow Pipelines"),
])  # fmt: skip
def test_a_login_that_expires_while_waiting_is_reported_with_the_run_s_address(
    cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, Any], text: str
) -> None:
    monkeypatch.setenv("KUBEFLOW_TOKEN", "t\n")
    replace_answer(cluster, f"GET runs/{RUN}", answer)
    with pytest.raises(UserError, match="the run continues, look at it there") as caught:
        watch(Run(RUN, "http://run"), host=cluster.host, pause=0.001)
    assert str(caught.value).startswith("http://run: no longer watched: ")
    assert text in str(caught.value)
    assert cluster.authorizations <= {"Bearer t"}


def test_a_dead_endpoint_is_no_answer_and_promises_no_run() -> None:
    with pytest.raises(NoAnswerError, match="gives no answer: connection refused") as caught:
        start("http://127.0.0.1:9")
    assert "run continues" not in str(caught.value)


@pytest.mark.parametrize(("copied", "address"), [
    ("http://h:8080", "http://h:8080"), ("http://h:8080/", "http://h:8080"),
    ("http://h/#/experiments", "http://h"), ("https://h/pipeline/#/runs/details/1", "https://h/pipeline"),
    ("https://h/_/pipeline/?ns=team#/runs", "https://h/pipeline"), ("https://h/pipeline?ns=a", "https://h/pipeline"),
])  # fmt: skip
def test_an_address_copied_from_the_browser_is_understood(copied: str, address: str) -> None:
    assert api_address(copied) == address


def test_a_copied_address_starts_a_run(cluster: Kubeflow) -> None:
    assert start(cluster.host + "/#/experiments") == RUN


@pytest.mark.parametrize("content", ["{", "", '{"namespace": "other"}', "[]"])
def test_kfp_s_own_context_file_does_not_matter(
    cluster: Kubeflow, content: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / ".config/kfp").mkdir(parents=True)
    (home / ".config/kfp/context.json").write_text(content, "utf-8")
    monkeypatch.setenv("HOME", str(home))
    assert start(cluster.host) == RUN
    assert cluster.experiments[0]["namespace"] == "team"


Check = Callable[[str], object]


@pytest.mark.parametrize("check", [lambda host: KubeflowApi(host).health(), start])
def test_doctor_s_and_submit_s_requests_fail_alike_behind_a_dead_proxy(
    check: Check, cluster: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(NoAnswerError, match=r"the proxy http://127\.0\.0\.1:9 does not connect"):
        check(cluster.host)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    check(cluster.host)
