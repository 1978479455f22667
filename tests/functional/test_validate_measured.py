"""The validate step where a program measures the action units: a real executable that writes OpenFace's table."""

import json
import sys
from pathlib import Path

import pytest

from emoverse.artifacts.manifest import open_source
from emoverse.artifacts.tables import read_action_units
from emoverse.cli.__init__ import main
from emoverse.config import MediaParams, ValidationParams
from emoverse.errors import UserError
from emoverse.media.action_units import UNITS, VARIABLE
from emoverse.validation.validate import validate
from tests.factories.clips import write_openface
from tests.factories.meld import FOLDERS, make_meld

MEDIA = MediaParams(frames=2, size=32, timeout=20.0)
LIMITS = ValidationParams(max_quarantined=0.9, min_duration=0.2, max_duration=60.0, max_duration_gap=2.0)
SCRIPT = f"""#!{sys.executable} -S
import os, sys, time
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
clip, folder = options["-f"], options["-out_dir"]
assert sys.argv[1] == "-aus" and os.path.getsize(clip) > 0
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "asked.txt"), "a") as log:
    log.write(clip + "\\n")
{{extra}}
units = {list(UNITS)!r}
with open(os.path.join(folder, os.path.splitext(os.path.basename(clip))[0] + ".csv"), "w") as table:
    table.write(", ".join(["frame", "face_id", "timestamp", "confidence", "success", *units]) + "\\n")
    for frame in range(1, 25):
        values = ["%.2f" % (4.0 if frame == 4 and unit == "AU12_r" else 0.2) for unit in units]
        table.write(", ".join([str(frame), "0", "%.3f" % ((frame - 1) / 24), "0.98", "1", *values]) + "\\n")
"""


def program(folder: Path, extra: str = "") -> Path:
    """Write an executable that does ``extra`` and then what FeatureExtraction does."""
    path = folder / "bin" / "FeatureExtraction"
    path.parent.mkdir(exist_ok=True)
    path.write_text(SCRIPT.format(extra=extra))
    path.chmod(0o755)
    return path


def run(raw: Path, out: Path, who: str | None, *, workers: int = 2, timeout: float = 20.0) -> dict:
    media = MediaParams(frames=2, size=32, timeout=timeout)
    validate("meld", raw, out, media, LIMITS, workers=workers, action_units=who)
    return json.loads((out / "summary.json").read_text())


def test_clips_without_a_table_are_measured_by_the_program(tmp_path: Path) -> None:
    raw, binary = make_meld(tmp_path / "MELD"), program(tmp_path)
    stem = f"{FOLDERS['train']}/dia0_utt0"
    write_openface(raw / "OpenFace" / f"{stem}.csv", [0.0, 5.0], frames=24)
    summary = run(raw, tmp_path / "out", f"openface:{binary}")
    assert summary["action_units"]["clips"] == 10
    faces = {face.utterance_id: face for face in read_action_units(tmp_path / "out/action_units.parquet")}
    assert faces["meld/train/dia0_utt0"].frame == 1, "its own table"
    assert {face.frame for name, face in faces.items() if name != "meld/train/dia0_utt0"} == {3}
    assert faces["meld/test/dia0_utt1"].intensities["AU12_r"] == 4.0
    measured = (tmp_path / "bin/asked.txt").read_text().splitlines()
    assert len(measured) == 9
    assert all(Path(clip).is_absolute() for clip in measured)
    facts = open_source(tmp_path / "out").manifest["facts"]
    assert facts["action_units"]["measured_by"] == "openface"
    assert len(facts["action_units"]["sha256"]) == 64
    assert str(tmp_path) not in (tmp_path / "out/manifest.json").read_text()


def test_nobody_measuring_leaves_the_output_as_it_was_and_measuring_does_not_depend_on_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, binary = make_meld(tmp_path / "MELD"), program(tmp_path)
    run(raw, tmp_path / "none", None)
    assert set(open_source(tmp_path / "none").manifest["facts"]) == {"notes", "unannotated"}
    monkeypatch.setenv(VARIABLE, f"openface:{binary}")
    found = []
    for workers in (1, 3):
        run(raw, tmp_path / f"out{workers}", None, workers=workers)
        found.append(open_source(tmp_path / f"out{workers}").digest)
    assert found[0] == found[1]
    run(raw, tmp_path / "told", "tables")
    assert open_source(tmp_path / "told").digest == open_source(tmp_path / "none").digest


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("print('no model at ' + folder); sys.exit(3)", "OpenFace ended with code 3: no model at"),
        ("print('no face model'); sys.exit(0)", "OpenFace wrote 0 tables instead of 1: no face model"),
        ("os.system('sleep 300')", "OpenFace was not done within 20 s"),
    ],
)
def test_a_program_that_fails_or_hangs_costs_the_action_units_not_the_clip(
    tmp_path: Path, extra: str, says: str
) -> None:
    raw = make_meld(tmp_path / "MELD", {"train": 2, "dev": 1, "test": 1})
    extra = f"if 'dia0_utt1' in clip: {extra}"
    summary = run(raw, tmp_path / "out", f"openface:{program(tmp_path, extra)}", timeout=2.0)
    assert summary["rows"]["out"] == 4
    assert summary["action_units"]["clips"] == 3
    assert summary["action_units"]["unusable_tables"] == 1
    assert says in summary["action_units"]["examples"][0]
    assert "emoverse-openface" not in summary["action_units"]["examples"][0], "two runs write the same bytes"


def test_who_cannot_measure_is_told_before_anything_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = make_meld(tmp_path / "MELD")
    for who, says in (
        ("openface:/nowhere/FeatureExtraction", "build OpenFace 2"),
        ("openface", "openface:/path/to/FeatureExtraction"),
        ("py-feat", "pip install"),
    ):
        words = ["validate", "--corpus", "meld", "--raw", str(raw), "--out", str(tmp_path / "out")]
        assert main([*words, "--action-units", who]) == 2
        printed = capsys.readouterr().err.strip()
        assert says in printed
        assert len(printed.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="not an executable file"):
        run(raw, tmp_path / "out", f"openface:{raw}")


def test_a_program_that_fails_on_every_clip_fails_the_step_with_its_last_line(tmp_path: Path) -> None:
    raw = make_meld(tmp_path / "MELD", {"train": 2, "dev": 1, "test": 1})
    binary = program(tmp_path, "print('Could not open the face model'); sys.exit(0)")
    with pytest.raises(
        UserError, match=r"no action units were measured on any of 4 clips.*Could not open the face model"
    ):
        run(raw, tmp_path / "out", f"openface:{binary}")
    assert not (tmp_path / "out").exists()
