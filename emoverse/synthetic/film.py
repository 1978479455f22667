"""Draw a planned line as a clip with its OpenFace table beside it."""

from pathlib import Path
from typing import Final

from emoverse.synthetic.clips import FPS, write_clip
from emoverse.synthetic.emotions import perform
from emoverse.synthetic.faces import Identity, Rendered, render
from emoverse.synthetic.openface import write_units
from emoverse.synthetic.plan import Line, stream

AUDIO_SHARE: Final = 0.10
OPENFACE_FOLDER: Final = "OpenFace"


def play(line: Line, seed: int) -> Rendered:
    """Draw a line's frames and true action units: always the same for the same line and seed."""
    rng = stream(seed, line.key, "clip")
    performance = perform(line.emotion, rng, low=line.low)
    return render(Identity.from_seed(line.identity), performance, line.size, FPS, line.n_frames, rng)


def shoot(line: Line, corpus: Path, clip: str, seed: int) -> None:
    """Write `corpus/clip` (.mp4) and `corpus/OpenFace/clip` (.csv) of a line."""
    rendered = play(line, seed)
    rng = stream(seed, line.key, "recording")
    jaw = rendered.units[:, -3] / 5.0
    write_clip(corpus / clip, rendered.frames, jaw if rng.random() < AUDIO_SHARE else None)
    write_units(units_path(corpus, clip), rendered.units, rng)


def units_path(corpus: Path, clip: str) -> Path:
    """Return where the action units of a clip (path relative to the corpus) are."""
    return (corpus / OPENFACE_FOLDER / clip).with_suffix(".csv")
