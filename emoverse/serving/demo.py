"""Serve a page over a predictor; the page loads nothing from other machines."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from emoverse.artifacts.tables import read_utterances
from emoverse.config import Params
from emoverse.corpora import EMOTIONS, Utterance
from emoverse.errors import UserError
from emoverse.serving.predictor import MAX_CHARACTERS, Answer, Predictor, clean_transcript
from emoverse.tasks import rank, task

if TYPE_CHECKING:
    import gradio as gr

UPLOAD_SECONDS: Final = 3600  # an upload is deleted after that
QUEUE_SIZE: Final = 16
PORTS: Final = range(7860, 7960)  # tried in order where no port is given
NO_CLIP: Final = "Drop a video file above, or record one, and ask again."
NO_TASK: Final = "Choose at least one question."
_PREFIX: Final = "emoverse-demo-"
# The trim button of the video would load ffmpeg from a CDN.
STYLE: Final = """
#message .note {border-left: 4px solid var(--color-accent); padding: 8px 12px; background: var(--color-accent-soft)}
#frames .grid-wrap {min-height: 0; padding-top: 24px}
#clip video {max-height: 300px}
#clip button[aria-label^="Trim"] {display: none}
footer {display: none !important}
"""
Example = tuple[str, str]  # path of a clip, transcript


def build_page(predictor: Predictor, examples: Sequence[Example] = ()) -> gr.Blocks:
    """Return the page of a model."""
    import gradio as gr

    order = sorted(choices(predictor), key=lambda choice: rank(choice[1]))
    names = [name for _, name in order]
    limits = predictor.limits
    page: gr.Blocks
    with gr.Blocks(
        title="EmoVerse", analytics_enabled=False, delete_cache=(UPLOAD_SECONDS // 6, UPLOAD_SECONDS)
    ) as page:
        gr.Markdown("# EmoVerse\nWhat does the person in the clip feel, what does the face do, and why?")
        with gr.Row():
            with gr.Column():
                # include_audio keeps the file as uploaded: gradio would call ffmpeg to remove the sound of a recording
                camera = gr.WebcamOptions(mirror=False)
                sources: Any = ["upload", "webcam"]
                clip = gr.Video(
                    label="Clip", sources=sources, include_audio=True, webcam_options=camera, height=360, elem_id="clip"
                )
                limit = f"at most {limits.seconds:.0f} s and {limits.size >> 20} MB"
                gr.Markdown(f"{limit}; kept on this machine, for an hour at most")
                transcript = gr.Textbox(label="What is said in it", max_length=MAX_CHARACTERS, lines=2, elem_id="words")
                selected = gr.CheckboxGroup(order, value=names, label="Questions", elem_id="tasks")
                button = gr.Button("Ask", variant="primary", elem_id="ask")
            with gr.Column():
                message = gr.HTML(elem_id="message", visible=False)
                frames = gr.Gallery(label="What the model saw", columns=4, elem_id="frames", buttons=[])
                shown = [_output(name, bool(predictor.exported.prompt(name).answers)) for name in names]
        if examples:  # below the answers, which a phone shows below the question
            gr.Examples([list(example) for example in examples], [clip, transcript], cache_examples=False)

        def ask(path: str | None, text: str, tasks: list[str]) -> list[Any]:
            result = reply(predictor, path, text or "", tasks)
            note = gr.HTML(f'<div class="note">{escape(result.message)}</div>', visible=bool(result.message))
            answers = [result.answers.get(name) for name in names]
            values = [(item.probabilities or item.reply or "(empty)") if item else None for item in answers]
            return [note, result.frames, *values]

        button.click(ask, [clip, transcript, selected], [message, frames, *shown], api_name="ask")
    page.queue(default_concurrency_limit=1, max_size=QUEUE_SIZE)
    return page


def _output(name: str, closed: bool) -> Any:
    import gradio as gr

    title = task(name).title.capitalize()
    if closed:
        return gr.Label(label=title, elem_id=f"answer-{name}")
    return gr.Textbox(label=title, elem_id=f"answer-{name}", interactive=False, lines=2)


@contextmanager
def serving(
    predictor: Predictor,
    examples: Sequence[Example] = (),
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    root_path: str | None = None,
) -> Iterator[str]:
    """Serve the page and yield its address.

    Uploads are stored in a folder that is deleted when the page closes; what a killed demo left is deleted first.
    uvicorn serves the page: gradio's own launcher asks its page over the environment's proxy whether it is up.

    Args:
        predictor: The model.
        examples: Shown on the page.
        host: Name or address to listen on, IPv6 included.
        port: None takes a free one.
        root_path: Path or address below which a reverse proxy publishes the page.

    Raises:
        UserError: The host or the port cannot be used.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at import: gradio would report to its makers' server
    # gradio opens HTTP clients when it is imported, which fails for some proxies; the page needs no other machine
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    with _upload_folder() as uploads, closing(_listen(host, port)) as listener:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        address, number = listener.getsockname()[:2]
        app = gr.mount_gradio_app(
            FastAPI(),
            build_page(predictor, examples),
            path="/",
            server_name=address,
            server_port=number,
            root_path=root_path,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            max_file_size=predictor.limits.size,
            allowed_paths=[clip for clip, _ in examples],
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=STYLE,
        )
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://{f'[{address}]' if ':' in address else address}:{number}/"
        finally:
            server.should_exit = True
            thread.join()


def _listen(host: str, port: int | None) -> socket.socket:
    """Return a listening socket; raise UserError naming the option that is wrong."""
    try:
        family, *_, resolved = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        remedy = "give an address of this machine, for example 127.0.0.1, ::1, or 0.0.0.0 for all"
        raise UserError(f"{host!r} is not a host ({error})", place="--host", remedy=remedy) from None
    for number in PORTS if port is None else (port,):
        try:
            return socket.create_server((resolved[0], number, *resolved[2:]), family=family)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port is None:
                continue
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                remedy = "give another --port, or none for a free one"
                raise UserError(f"port {number}: {os.strerror(error.errno)}", place="--port", remedy=remedy) from None
            remedy = "give an address of this machine, for example 127.0.0.1 or ::1"
            raise UserError(f"{host}: {error.strerror}", place="--host", remedy=remedy) from None
    remedy = "give a free port with --port"
    raise UserError(f"ports {PORTS[0]} to {PORTS[-1]} are in use", place="--port", remedy=remedy)


@contextmanager
def _upload_folder() -> Iterator[str]:
    """Yield a folder for uploads, locked while in use; delete the unlocked ones that killed demos left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (folder / "lock").open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder_name, (Path(folder_name) / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder_name


def find_examples(params: Params, validated: Path) -> list[Example]:
    """Return one test clip of each emotion, from the first corpus that is present; none without a corpus.

    ``validated`` has the outputs of validate by corpus name.
    """
    for name, corpus in params.corpora.items():
        table = validated / name / "utterances.parquet"
        if table.is_file() and (examples := _one_of_each(table, Path(corpus.root))):
            return examples
    return []


def _one_of_each(table: Path, root: Path) -> list[Example]:
    first: dict[str, Utterance] = {}
    for item in read_utterances(table):
        if item.split == "test" and item.emotion and item.emotion not in first and (root / item.clip).is_file():
            first[item.emotion] = item
    return [(str((root / first[name].clip).absolute()), first[name].text) for name in EMOTIONS if name in first]


@dataclass(frozen=True)
class PageContent:
    """What the page shows: ``message`` is plain text, empty without a problem; ``answers`` by task."""

    message: str
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)


def choices(predictor: Predictor) -> list[tuple[str, str]]:
    """Return (title, task) of each task about one clip."""
    return [(task(name).title, name) for name in predictor.tasks]


def reply(predictor: Predictor, clip: str | None, transcript: str, tasks: Sequence[str]) -> PageContent:
    """Answer questions about a clip; a problem becomes a message that names no path of this machine.

    Args:
        predictor: The model.
        clip: Path of the uploaded clip; None without one.
        transcript: What is said in it.
        tasks: The tasks to ask.
    """
    if clip is None:
        return PageContent(NO_CLIP)
    if not tasks:
        return PageContent(NO_TASK)
    path = Path(clip)
    try:
        result = predictor.predict_clip(path, transcript, tasks)
        cleaned = clean_transcript(transcript)
    except UserError as error:
        place = path.name if error.place == str(path) else error.place
        return PageContent(f"{place}: {error.problem}. {error.remedy.capitalize()}." if place else f"{error}.")
    changed = transcript.strip() and cleaned != transcript.strip()
    note = f"Some of the text would have been commands to the model. It read: {cleaned}" if changed else ""
    return PageContent(note, list(result.frames), dict(result.answers))
