"""Reasons from an endpoint, which a real HTTP server on this machine stands for."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emoverse.amt.reasons import EndpointReasons, provider
from emoverse.errors import UserError
from tests.factories.amt import utterance
from tests.factories.endpoint import Answer, Server, completion


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Server]]:
    made: list[Server] = []

    def start(answer: Answer) -> Server:
        made.append(Server(answer))
        return made[-1]

    yield start
    for one in made:
        one.http.shutdown()
        one.http.server_close()


def reasons(url: str, folder: Path, **more: object) -> EndpointReasons:
    settings = {
        "url": url, "model": "tiny", "cache": str(folder / "cache"), "see_frames": False, "requests_per_minute": 1e6,
        "price_in": 1.0, "price_out": 10.0, "key_variable": "EMOVERSE_TEST_KEY",
    }  # fmt: skip
    path = folder / "settings.json"
    path.write_text(json.dumps(settings | more))
    found = provider(f"endpoint:{path}", [])
    assert isinstance(found, EndpointReasons)
    return found


def test_an_answer_is_asked_for_once_and_its_spend_counted_every_time(
    serve: Callable[[Answer], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOVERSE_TEST_KEY", "s3cret")
    server = serve(lambda n, body, path: (200, {}, completion(f"  Reason\n{n} ")))
    facts = []
    for _ in range(2):
        one = reasons(server.url, tmp_path)
        found = [one.of(utterance(text=words), [], {"AU12": 3.0}) for words in ("a", "b", "a")]
        assert [reason.text for reason in found if reason] == ["Reason 1", "Reason 2", "Reason 1"]
        assert found[0] is not None
        assert found[0].provider == "endpoint:tiny"
        assert found[0].clues == ("lip corners pulled up", "the words sound positive")
        facts.append(one.facts())
    assert len(server.requests) == 2
    assert server.keys == ["Bearer s3cret"] * 2
    assert facts[0] == facts[1]
    assert facts[0]["spend"] == pytest.approx((300 * 1.0 + 60 * 10.0) / 1e6)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "s3cret" in path.read_text()]
    assert "lip corners pulled up" in server.requests[0]["messages"][0]["content"]


def test_a_rate_limit_is_waited_out_as_the_server_says(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    busy = {"error": "slow down"}
    server = serve(
        lambda n, body, path: (429, {"Retry-After": "0.2"}, busy) if n < 3 else (200, {}, completion("Yes."))
    )
    found = reasons(server.url, tmp_path).of(utterance(), [], None)
    assert found is not None
    assert len(server.requests) == 3


def test_requests_keep_to_the_rate(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    import time

    server = serve(lambda n, body, path: (200, {}, completion("Yes.")))
    one = reasons(server.url, tmp_path, requests_per_minute=600)
    start = time.monotonic()
    for words in "abcd":
        one.of(utterance(text=words), [], None)
    assert time.monotonic() - start >= 0.29


def test_a_run_that_was_refused_goes_on_where_it_stopped(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    server = serve(lambda n, body, path: (401, {}, {"error": "no key"}) if n == 2 else (200, {}, completion("Yes.")))
    one = reasons(server.url, tmp_path)
    one.of(utterance(text="a"), [], None)
    with pytest.raises(UserError, match=r"HTTP 401.*answers so far are kept"):
        one.of(utterance(text="b"), [], None)
    again = reasons(server.url, tmp_path)
    assert all(again.of(utterance(text=words), [], None) for words in "ab")
    assert len(server.requests) == 3


def test_something_that_is_no_chat_completion_or_nobody_at_all_is_an_error(
    serve: Callable[[Answer], Server], tmp_path: Path
) -> None:
    server = serve(lambda n, body, path: (200, {}, {"hello": "world"}))
    with pytest.raises(UserError, match="something else than a chat completion"):
        reasons(server.url, tmp_path).of(utterance(), [], None)
    with pytest.raises(UserError, match="gave no answer"):
        reasons("http://127.0.0.1:9/v1", tmp_path, attempts=1).of(utterance(text="new"), [], None)


@pytest.mark.parametrize("reply", [[1, 2], None, "words", {"choices": []}, {"choices": [{"message": None}]}])
def test_json_of_another_shape_is_an_error_of_the_endpoint(
    serve: Callable[[Answer], Server], tmp_path: Path, reply: object
) -> None:
    server = serve(lambda n, body, path: (200, {}, reply))
    with pytest.raises(UserError, match="something else than a chat completion"):
        reasons(server.url, tmp_path).of(utterance(), [], None)


def test_an_answer_that_is_cut_off_is_asked_for_again(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    server = serve(lambda n, body, path: (200, {"Content-Length": "9999"} if n == 1 else {}, completion("Yes.")))
    assert reasons(server.url, tmp_path, timeout=0.5, attempts=2).of(utterance(), [], None)
    assert len(server.requests) == 2


def test_a_strange_usage_costs_nothing(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    strange = completion("Yes.") | {"usage": {"prompt_tokens": "many", "completion_tokens": 3, "details": {"a": 1}}}
    one = reasons(serve(lambda n, body, path: (200, {}, strange)).url, tmp_path)
    assert one.of(utterance(), [], None)
    assert (one.facts()["tokens_in"], one.facts()["tokens_out"]) == (0, 3)


def test_a_key_that_the_endpoint_repeats_is_not_shown(
    serve: Callable[[Answer], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOVERSE_TEST_KEY", "s3cret")
    for status, says in ((401, "HTTP 401"), (200, "something else")):
        server = serve(lambda n, body, path, status=status: (status, {}, {"error": "wrong key s3cret"}))  # type: ignore[misc]
        with pytest.raises(UserError, match=says) as caught:
            reasons(server.url, tmp_path).of(utterance(text=says), [], None)
        assert "s3cret" not in str(caught.value)
        assert "<the key>" in str(caught.value)


def test_a_broken_file_in_the_cache_is_named(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    server = serve(lambda n, body, path: (200, {}, completion("Yes.")))
    reasons(server.url, tmp_path).of(utterance(), [], None)
    (kept,) = (tmp_path / "cache").rglob("*.json")
    kept.write_text("{", "utf-8")
    with pytest.raises(UserError, match=r"\.json: not a cached answer.*remove the file"):
        reasons(server.url, tmp_path).of(utterance(), [], None)


def test_broken_settings_are_named(tmp_path: Path) -> None:
    for raw, says in (
        ("{", "not JSON"),
        ("[]", "contains no settings"),
        ('{"url": "http://x", "modell": "y"}', "did you mean 'model'"),
    ):
        (tmp_path / "s.json").write_text(raw)
        with pytest.raises(UserError, match=says):
            provider(f"endpoint:{tmp_path / 's.json'}", [])


def test_an_answer_is_cached_for_its_address(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    texts = []
    for name in ("one", "other", "other"):
        url = serve(lambda n, body, path, name=name: (200, {}, completion(name))).url  # type: ignore[misc]
        answered = reasons(url, tmp_path).of(utterance(), [], None)
        assert answered is not None
        texts.append(answered.text)
    assert texts == ["one", "other", "other"]
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 3


def test_answers_that_threads_write_at_once_are_all_whole(serve: Callable[[Answer], Server], tmp_path: Path) -> None:
    server = serve(lambda n, body, path: (200, {}, completion("Yes.")))
    made = [reasons(server.url, tmp_path, requests_per_minute=1e9) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: made[i % 4].of(utterance(text=str(i // 8)), [], None), range(120)))
    assert {answer.text for answer in answers if answer} == {"Yes."}
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) == 15
    assert all(json.loads(path.read_text())["text"] == "Yes." for path in kept)
