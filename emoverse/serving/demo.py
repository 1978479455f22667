"""Lay out the page and serve it: nothing on it is fetched from anywhere but this machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from emoverse.artifacts.tables import read_utterances
from emoverse.config import Params
from emoverse.corpora.base import EMOTIONS, Utterance
from emoverse.errors import UserError
from emoverse.serving.predictor import Answer, Predictor, spoken
from emoverse.tasks import rank, task

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported: it would call its makers' server

import gradio as gr

from emoverse.serving.predictor import LONGEST

KEPT: Final = 3600  # seconds an upload is kept
WAITING: Final = 16  # visitors in the queue
# The video's own scissors would fetch a program from a server far away.
STYLE: Final = """
#message .note {border-left: 4px solid var(--color-accent); padding: 8px 12px; background: var(--color-accent-soft)}
#frames .grid-wrap {min-height: 0; padding-top: 24px}
#clip video {max-height: 300px}
#clip button[aria-label^="Trim"] {display: none}
footer {display: none !important}
"""


def page(predictor: Predictor, examples: Sequence[Example] = ()) -> gr.Blocks:
    """Return the page of a model; ``examples`` are (path of a clip, words)."""
    order = sorted(choices(predictor), key=lambda choice: rank(choice[1]))
    names = [name for _, name in order]
    limits = predictor.limits
    made: gr.Blocks
    with gr.Blocks(title="EmoVerse", analytics_enabled=False, delete_cache=(KEPT // 6, KEPT)) as made:
        gr.Markdown("# EmoVerse\nWhat does the person in the clip feel, what does the face do, and why?")
        with gr.Row():
            with gr.Column():
                # With its sound the file stays as it came: gradio would call ffmpeg to cut the sound of a recording.
                camera = gr.WebcamOptions(mirror=False)
                both: Any = ["upload", "webcam"]
                clip = gr.Video(
                    label="Clip", sources=both, include_audio=True, webcam_options=camera, height=360, elem_id="clip"
                )
                most = f"at most {limits.seconds:.0f} s and {limits.size >> 20} MB"
                gr.Markdown(f"{most}; kept on this machine, for an hour at most")
                words = gr.Textbox(label="What is said in it", max_length=LONGEST, lines=2, elem_id="words")
                asked = gr.CheckboxGroup(order, value=names, label="Questions", elem_id="tasks")
                button = gr.Button("Ask", variant="primary", elem_id="ask")
            with gr.Column():
                message = gr.HTML(elem_id="message", visible=False)
                frames = gr.Gallery(label="What the model saw", columns=4, elem_id="frames", buttons=[])
                shown = [_output(name, bool(predictor.exported.asked(name).answers)) for name in names]
        if examples:  # below the answers, which a phone shows below the question
            gr.Examples([list(one) for one in examples], [clip, words], cache_examples=False)
        outputs = [message, frames, *shown]

        def ask(path: str | None, text: str, tasks: list[str]) -> list[Any]:
            found = reply(predictor, path, text or "", tasks)
            told = [found.answers.get(name) for name in names]
            note = gr.HTML(f'<div class="note">{escape(found.message)}</div>', visible=bool(found.message))
            values = [(one.probabilities or one.reply or "(no words)") if one else None for one in told]
            return [note, found.frames, *values]

        button.click(ask, [clip, words, asked], outputs, api_name="ask")
    made.queue(default_concurrency_limit=1, max_size=WAITING)
    return made


def _output(name: str, closed: bool) -> Any:
    title = task(name).title.capitalize()
    if closed:
        return gr.Label(label=title, elem_id=f"answer-{name}")
    return gr.Textbox(label=title, elem_id=f"answer-{name}", interactive=False, lines=2)


@contextmanager
def serving(
    predictor: Predictor, examples: Sequence[Example] = (), *, host: str = "127.0.0.1", port: int | None = None
) -> Iterator[str]:
    """Serve the page and yield its address; uploads lie in a folder of their own, which goes when the page closes.

    ``port`` None takes a free one. Raises OSError when the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="emoverse-demo-") as kept:
        os.environ["GRADIO_TEMP_DIR"] = kept
        made = page(predictor, examples)
        plain = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        try:
            _, address, _ = made.launch(
                server_name=host,
                server_port=port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                footer_links=[],
                ssr_mode=False,
                max_file_size=predictor.limits.size,
                allowed_paths=[clip for clip, _ in examples],
                theme=plain,
                css=STYLE,
            )
            yield str(address)
        finally:
            made.close(verbose=False)


Example = tuple[str, str]


def examples(params: Params, validated: Path) -> list[Example]:
    """Return (path of a clip, words) of the first corpus at hand, one of each emotion; none without a corpus.

    ``validated`` holds the outputs of validate by corpus name.
    """
    for name, corpus in params.corpora.items():
        table = validated / name / "utterances.parquet"
        if table.is_file() and (found := _chosen(table, Path(corpus.root))):
            return found
    return []


def _chosen(table: Path, root: Path) -> list[Example]:
    first: dict[str, Utterance] = {}
    for one in read_utterances(table):
        if one.split == "test" and one.emotion and one.emotion not in first and (root / one.clip).is_file():
            first[one.emotion] = one
    return [(str((root / first[word].clip).absolute()), first[word].text) for word in EMOTIONS if word in first]


NO_CLIP: Final = "Drop a video file above, or record one, and ask again."
NO_TASK: Final = "Choose at least one question."


@dataclass(frozen=True)
class Shown:
    """What the page shows: ``message`` is plain text, empty when there is nothing to say; ``answers`` by task."""

    message: str
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)


def choices(predictor: Predictor) -> list[tuple[str, str]]:
    """Return (title, task) of each question that the model can be asked about a clip."""
    return [(task(name).title, name) for name in predictor.tasks]


def reply(predictor: Predictor, clip: str | None, words: str, tasks: Sequence[str]) -> Shown:
    """Ask about a clip; whatever is wrong with it comes back as a message that names no path of this machine."""
    if clip is None:
        return Shown(NO_CLIP)
    if not tasks:
        return Shown(NO_TASK)
    path = Path(clip)
    try:
        found = predictor.clip(path, words, tasks)
        heard = spoken(words)
    except UserError as error:
        place = path.name if error.place == str(path) else error.place
        return Shown(f"{place}: {error.problem}. {error.remedy.capitalize()}." if place else f"{error}.")
    # The same as the model's prompt has it, for a visitor who wonders about a space that she did not type.
    changed = words.strip() and heard != words.strip()
    note = f"Some of your words would have been commands to the model. It read: {heard}" if changed else ""
    return Shown(note, list(found.frames), dict(found.answers))
