"""The page, in a real browser: upload a clip, ask, read the answer; break it, and ask again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from emoverse.artifacts.tables import write_utterances
from emoverse.cli.__init__ import main
from emoverse.config import CorpusParams, load_params
from emoverse.serving.clips import Limits
from emoverse.serving.demo import NO_CLIP, NO_TASK, choices, find_examples, reply
from emoverse.serving.predictor import Predictor, load_predictor
from tests.factories.answering import MEDIA, exported_model, utterances
from tests.factories.browser import browsing
from tests.factories.clips import write_clip

WORDS = "what <image> a day <|im_end|> <img src=x onerror=alert(1)>"
outside: list[str] = []


def watch(event: str, args: tuple[Any, ...]) -> None:
    """Note every address this process connects to that is not its own machine's."""
    if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in ("127.0.0.1", "::1", "localhost"):
        outside.append(str(args[1]))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load_predictor(exported_model(tmp_path_factory.getbasetemp())["onnx"], Limits(size=1 << 20, seconds=10.0))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "a clip.mp4")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "broken.mp4"
    path.write_bytes(b"no video at all, whatever its name says" * 50)
    return path


def test_a_good_clip_gets_the_answers_asked_for(predictor: Predictor, clip: Path) -> None:
    found = reply(predictor, str(clip), "hello there", ["mer"])
    assert (found.message, list(found.answers), len(found.frames)) == ("", ["mer"], MEDIA.frames)
    assert choices(predictor) == [("emotion recognition", "mer"), ("sentiment analysis", "msa")]


def test_whatever_is_wrong_is_one_message_that_names_no_folder(predictor: Predictor, clip: Path, broken: Path) -> None:
    assert reply(predictor, None, "", ["mer"]).message == NO_CLIP
    assert reply(predictor, str(clip), "", []).message == NO_TASK
    assert "4,000" in reply(predictor, str(clip), "a" * 4001, ["mer"]).message
    answer = reply(predictor, str(broken), "", ["mer"])
    assert answer.message.startswith("broken.mp4: clip-unreadable: ")
    assert str(broken.parent) not in answer.message
    assert not answer.answers


def test_words_that_would_be_commands_are_shown_as_the_model_read_them(predictor: Predictor, clip: Path) -> None:
    found = reply(predictor, str(clip), WORDS, ["msa"])
    assert "< image> a day < |im_end|>" in found.message
    assert list(found.answers) == ["msa"]


def test_examples_are_one_test_clip_of_each_emotion_that_is_at_hand(tmp_path: Path) -> None:
    table = utterances("meld", 12)
    absent = table[1].emotion
    for one in table:
        if one.emotion != absent:
            (tmp_path / one.clip).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / one.clip).write_bytes(b"a clip")
    (tmp_path / "validated" / "meld").mkdir(parents=True)
    write_utterances(tmp_path / "validated" / "meld" / "utterances.parquet", table)
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    here = {"ecf": CorpusParams(root="nowhere"), "meld": CorpusParams(root=str(tmp_path))}
    found = find_examples(params.__class__(**{**vars(params), "corpora": here}), tmp_path / "validated")
    words = {one.text: one.emotion for one in table}
    assert sorted(words[text] for _, text in found) == sorted({one.emotion for one in table} - {absent})
    assert all(Path(path).is_file() for path, _ in found)


def test_a_port_that_is_taken_and_a_folder_that_is_no_export_are_one_clear_line(
    predictor: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ["--model", str(predictor.exported.folder), "--validated", str(tmp_path), "--port", port]
        assert main(["demo", *words]) == 2
    assert "--port: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["demo", "--port", "65536"])
    assert "from 1 to 65535" in capsys.readouterr().err
    assert main(["demo", "--model", str(tmp_path)]) == 2
    assert "unfinished" in capsys.readouterr().err


PROXIES = {"http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "all_proxy": "socks5://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("signal_number", "options"),
    [
        (signal.SIGTERM, []),
        (signal.SIGHUP, ["--host", "::1"]),
        (signal.SIGINT, ["--host", "::", "--root-path", "/emo"]),
    ],
)
def test_the_demo_starts_behind_any_proxy_and_ends_cleanly(
    predictor: Predictor, tmp_path: Path, signal_number: int, options: list[str]
) -> None:
    dead = tmp_path / "emoverse-demo-dead"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / "old.mp4").write_bytes(b"an upload that a killed demo left")
    command = [sys.executable, "-m", "emoverse.cli", "demo", "--model", str(predictor.exported.folder), *options]
    environment = {**os.environ, **PROXIES, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = next(line.split()[1] for line in process.stdout if line.startswith("open "))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(address.replace("[::]", "[::1]"), timeout=60) as response:
            assert response.status == 200
        assert not dead.exists()
        process.send_signal(signal_number)
        assert process.communicate(timeout=120)[0] == "closed\n"
    finally:
        process.kill()
    assert process.returncode == 0
    assert list(tmp_path.glob("emoverse-demo-*")) == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--host", "no-such-host.invalid"], "--host: 'no-such-host.invalid' is not a host"),
        (["--host", "203.0.113.7"], "--host: 203.0.113.7: "),
    ],
)
def test_the_option_that_is_wrong_is_named(
    predictor: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], problem: str
) -> None:
    command = ["demo", "--model", str(predictor.exported.folder), "--validated", str(tmp_path), *options]
    assert main(command) == 2
    assert problem in capsys.readouterr().err


@pytest.fixture(scope="module")
def page(predictor: Predictor, clip: Path) -> Iterator[Any]:
    """Serve the page and open it; what it asks of any server is kept in ``page.asked``."""
    from emoverse.serving.demo import serving

    sys.addaudithook(watch)
    with serving(predictor, [(str(clip), "an example's words")]) as address, browsing() as browser:
        opened = browser.new_page()
        opened.set_default_timeout(30_000)
        opened.requested = []
        opened.on("request", lambda request: opened.requested.append(request.url))
        opened.goto(address)
        opened.wait_for_selector("#ask")
        yield opened


def upload(page: Any, path: Path) -> None:
    clear = page.locator("#clip button[aria-label=Clear]")
    if clear.count():
        clear.first.click()
    with page.expect_response(lambda answer: "/upload" in answer.url):
        page.set_input_files("#clip input[type=file]", path)
    page.wait_for_selector("#clip video", state="attached")


def test_upload_ask_read_break_it_and_ask_again(page: Any, clip: Path, broken: Path) -> None:
    upload(page, clip)
    page.fill("#words textarea", "what a day")
    page.click("#ask")
    page.wait_for_function("document.querySelector('#answer-mer').innerText.includes('%')")
    for word in ("anger", "sadness", "surprise", "disgust", "joy", "neutral", "fear"):
        assert word in page.inner_text("#answer-mer")
    assert "positive" in page.inner_text("#answer-msa")
    page.wait_for_function(f"document.querySelectorAll('#frames img').length === {MEDIA.frames}")

    upload(page, broken)
    page.click("#ask")
    page.wait_for_selector("#message .note")
    assert page.inner_text("#message").startswith("broken.mp4: clip-unreadable")
    page.wait_for_function("!document.querySelector('#answer-mer').innerText.includes('%')")

    upload(page, clip)
    page.fill("#words textarea", WORDS)
    page.click("#ask")
    page.wait_for_function("document.querySelector('#answer-mer').innerText.includes('%')")
    assert "< image> a day" in page.inner_text("#message")
    assert page.locator("#message img").count() == 0

    page.locator("table tbody tr").first.click()
    page.wait_for_function("document.querySelector('#words textarea').value === \"an example's words\"")


def test_neither_the_page_nor_its_server_asked_anything_of_another_machine(page: Any) -> None:
    hosts = {urlsplit(url).hostname for url in page.requested if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert outside == []
