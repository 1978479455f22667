"""submit --wait: a run takes days, and the way to its cluster breaks now and then."""

import pytest

from emoverse.http import NoAnswerError
from pipelines.submit import Run, watch
from tests.factories.kubeflow import RUN, kubeflow


def test_an_endpoint_that_stays_silent_is_given_up_at_last() -> None:
    with kubeflow() as cluster:
        cluster.states = [("DOWN", {})]
        with pytest.raises(NoAnswerError, match=r"HTTP 503; .*the run continues"):
            watch(Run(RUN, "the run's address"), host=cluster.host, pause=0.001, patience=2)
        assert [path for _, path in cluster.seen if RUN in path] == [f"/apis/v2beta1/runs/{RUN}"] * 3


def test_silence_for_a_moment_is_borne() -> None:
    said: list[str] = []
    with kubeflow() as cluster:
        cluster.states = [("RUNNING", {"fetch": "RUNNING"}), ("DOWN", {}), ("DOWN", {}), ("SUCCEEDED", {})]
        watch(Run(RUN, ""), host=cluster.host, pause=0.001, patience=2, say=said.append)
    assert said == ["running     fetch"]
