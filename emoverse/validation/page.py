"""Write the page a person looks at: one file, no network, everything from the data escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from emoverse.corpora.base import Quarantined
from emoverse.media.errors import REASONS

MEANING: Final = REASONS | {
    "bad-cause": "a cause or target that its conversation does not have",
    "bad-clip-name": "the clip is not named as its ids say",
    "bad-conversation": "no conversation can be read there",
    "bad-frame-rate": "the mean frame rate is outside the limits",
    "bad-id": "an id that cannot be part of a path",
    "bad-intensity": "an emotion intensity is negative or no number",
    "bad-label": "a label that is not one of those known, or out of its range",
    "bad-number": "a number that is none",
    "bad-pair": "an emotion-cause pair that cannot be read or contradicts its utterance",
    "bad-quote": "a quotation mark stands where none can",
    "bad-size": "the picture is smaller or larger than the limits",
    "bad-speaker": "the speaker is no name",
    "bad-split": "a split that is none",
    "bad-time": "a time that cannot be read",
    "blank-text": "nothing is said",
    "clip-too-long": "the clip is longer than the limit",
    "clip-too-short": "the clip is shorter than the limit",
    "duplicate-id": "the id is on an earlier row",
    "empty-text": "nothing is said",
    "intensity-out-of-range": "an emotion intensity outside its scale",
    "line-break": "a cell runs over lines: a quotation mark is missing",
    "no-label": "the row has no label at all",
    "nul-byte": "a NUL byte inside the text",
    "ragged-row": "more or fewer cells than the header",
    "sentiment-out-of-range": "a sentiment outside its scale",
    "span-backwards": "it ends before it starts",
}
ROWS: Final = 500  # quarantined rows on the page; the table holds all


def write_page(path: Path, summary: Mapping[str, Any], quarantine: Sequence[tuple[Quarantined, bool]]) -> None:
    """Render the summary and the quarantine as one self-contained page.

    Styles and the small script are inline, so it opens from disk, offline, and in an iframe with ``sandbox``
    ``allow-scripts``. Without scripts all is readable; only the filter of the table is gone.
    """
    # Transcripts and file names come from strangers: autoescape is what keeps a <script> in one of them text.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["share"] = lambda value: f"{100 * value:.1f} %"
    environment.filters["count"] = lambda value: f"{value:,}"
    template = resources.files("emoverse.validation").joinpath("page.html.jinja").read_text("utf-8")
    text = environment.from_string(template).render(
        s=summary, rows=quarantine[:ROWS], total=len(quarantine), meaning=MEANING, bars=_bars(summary)
    )
    path.write_text(text, "utf-8", newline="\n")


def _bars(summary: Mapping[str, Any]) -> list[dict[str, float]]:
    """Return the duration histogram as bars of an SVG 400 wide and 80 high."""
    counts, edges = (summary["clips"]["duration_histogram"][k] for k in ("counts", "edges"))
    top, wide = max([*counts, 1]), 400 / max(len(counts), 1)
    return [
        {"x": round(n * wide, 2), "w": round(wide - 1, 2), "h": round(80 * c / top, 2), "n": c, "from": edges[n]}
        for n, c in enumerate(counts)
    ]
