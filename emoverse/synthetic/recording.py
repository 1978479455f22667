"""Record planned lines as clips, some of them damaged on purpose."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emoverse.synthetic.clips import FPS, Rendered, render, write_clip, write_units
from emoverse.synthetic.expressions import animate
from emoverse.synthetic.people import VIDEO_IDS, Line, seeded_rng
from emoverse.synthetic.portrait import Identity

AUDIO_SHARE: Final = 0.10
OPENFACE_FOLDER: Final = "OpenFace"


def render_line(line: Line, seed: int) -> Rendered:
    """Draw a line's frames and true action units: always the same for the same line and seed."""
    rng = seeded_rng(seed, line.key, "clip")
    expression = animate(line.emotion, rng, low=line.low)
    return render(Identity.from_seed(line.identity), expression, line.size, FPS, line.n_frames, rng)


def write_line_clip(line: Line, corpus: Path, clip: str, seed: int) -> None:
    """Write `corpus/clip` (.mp4) and `corpus/OpenFace/clip` (.csv) of a line.

    Args:
        line: The utterance.
        corpus: Root of the corpus.
        clip: Path of the clip, relative to the root.
        seed: Seed of the sample.
    """
    rendered = render_line(line, seed)
    rng = seeded_rng(seed, line.key, "recording")
    jaw = rendered.units[:, -3] / 5.0
    write_clip(corpus / clip, rendered.frames, jaw if rng.random() < AUDIO_SHARE else None)
    write_units(units_path(corpus, clip), rendered.units, rng)


def units_path(corpus: Path, clip: str) -> Path:
    """Return where the action units of a clip (path relative to the corpus) are."""
    return (corpus / OPENFACE_FOLDER / clip).with_suffix(".csv")


@dataclass(frozen=True)
class PlantedFault:
    """A planted fault: its kind, file (relative to the corpus), row (by its id) and wrong value."""

    corpus: str
    kind: str
    file: str
    row: str = ""
    value: str = ""


FAULTS: Final = (
    PlantedFault("MELD", "truncated clip", "train/train_splits/dia0_utt1.mp4"),
    PlantedFault("MELD", "zero-byte clip", "dev/dev_splits_complete/dia0_utt1.mp4"),
    PlantedFault("MELD", "missing clip", "test/output_repeated_splits_test/dia1_utt2.mp4"),
    PlantedFault("MELD", "unannotated clip", "test/output_repeated_splits_test/dia1_utt19.mp4"),
    PlantedFault("MELD", "duplicate id", "train_sent_emo.csv", "dia1_utt0"),
    PlantedFault("MELD", "misspelt emotion", "train_sent_emo.csv", "dia2_utt0", "hapy"),
    PlantedFault("ECF", "cause index out of range", "Subtask_2_train.json", "1", "99"),
    PlantedFault("ECF", "truncated clip", "train/dia2utt1.mp4"),
    PlantedFault("ECF", "missing clip", "test/dia101utt2.mp4"),
    PlantedFault("MOSEI", "sentiment out of range", "label.csv", f"{VIDEO_IDS[0]}/1", "4.0"),
    PlantedFault("MOSEI", "zero-byte clip", f"Raw/{VIDEO_IDS[1]}/0.mp4"),
    PlantedFault("MOSEI", "missing clip", f"Raw/{VIDEO_IDS[2]}/1.mp4"),
    PlantedFault("MOSEI", "unannotated clip", f"Raw/{VIDEO_IDS[0]}/30.mp4"),
)
"""All of them. No faults but part of the real layouts: a CMU emotion above 3, ties, an emotion without a cause."""


def planted_fault(corpus: str, kind: str) -> PlantedFault:
    """Return the corpus's fault of a kind; raise KeyError when there is none."""
    for planted in FAULTS:
        if (planted.corpus, planted.kind) == (corpus, kind):
            return planted
    raise KeyError(f"{corpus} has no planted fault '{kind}'")


def plant_faults(corpus: Path) -> None:
    """Truncate, empty or remove the clips that the faults name, and remove their OpenFace tables."""
    for planted in FAULTS:
        if planted.corpus != corpus.name:
            continue
        path = corpus / planted.file
        match planted.kind:
            case "truncated clip":
                whole = path.read_bytes()
                path.write_bytes(whole[: len(whole) * 6 // 10])
            case "zero-byte clip":
                path.write_bytes(b"")
            case "missing clip":
                path.unlink()
            case _:
                continue
        units_path(corpus, planted.file).unlink()
