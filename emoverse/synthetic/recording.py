"""Record planned lines as clips, some of them damaged on purpose."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emoverse.synthetic.clips import FPS, Identity, Rendered, render, write_clip, write_units
from emoverse.synthetic.expressions import perform
from emoverse.synthetic.people import VIDEO_IDS, Line, stream

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


@dataclass(frozen=True)
class Fault:
    """Hold a planted fault: its kind, file (relative to the corpus), row (by its id) and wrong value."""

    corpus: str
    kind: str
    file: str
    row: str = ""
    value: str = ""


FAULTS: Final = (
    Fault("MELD", "truncated clip", "train/train_splits/dia0_utt1.mp4"),
    Fault("MELD", "zero-byte clip", "dev/dev_splits_complete/dia0_utt1.mp4"),
    Fault("MELD", "missing clip", "test/output_repeated_splits_test/dia1_utt2.mp4"),
    Fault("MELD", "unannotated clip", "test/output_repeated_splits_test/dia1_utt19.mp4"),
    Fault("MELD", "duplicate id", "train_sent_emo.csv", "dia1_utt0"),
    Fault("MELD", "misspelt emotion", "train_sent_emo.csv", "dia2_utt0", "hapy"),
    Fault("ECF", "cause index out of range", "Subtask_2_train.json", "1", "99"),
    Fault("ECF", "truncated clip", "train/dia2utt1.mp4"),
    Fault("ECF", "missing clip", "test/dia101utt2.mp4"),
    Fault("MOSEI", "sentiment out of range", "label.csv", f"{VIDEO_IDS[0]}/1", "4.0"),
    Fault("MOSEI", "zero-byte clip", f"Raw/{VIDEO_IDS[1]}/0.mp4"),
    Fault("MOSEI", "missing clip", f"Raw/{VIDEO_IDS[2]}/1.mp4"),
    Fault("MOSEI", "unannotated clip", f"Raw/{VIDEO_IDS[0]}/30.mp4"),
)
"""All of them. No faults but part of the real layouts: a CMU emotion above 3, ties, an emotion without a cause."""


def fault(corpus: str, kind: str) -> Fault:
    """Return the corpus's fault of a kind. Raises KeyError when there is none."""
    for found in FAULTS:
        if (found.corpus, found.kind) == (corpus, kind):
            return found
    raise KeyError(f"{corpus} has no planted fault '{kind}'")


def damage(corpus: Path) -> None:
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
