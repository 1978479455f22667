"""OpenFace's tables, with and without spaces, subset and full, with lost faces."""

from pathlib import Path

import pytest

from emoverse.media.action_units import UNITS, read_action_units, table_of
from emoverse.media.probe import Probe
from tests.factories.clips import write_openface


@pytest.mark.parametrize("spaces", [True, False])
def test_the_peak_is_the_frame_with_the_largest_sum(tmp_path: Path, spaces: bool) -> None:
    table = read_action_units(write_openface(tmp_path / "a.csv", [0.0, 1.0, 4.5, 4.5, 2.0], spaces=spaces))
    assert table is not None
    frame, units = table.peak
    assert frame == 2  # the first of two equal frames, counted from 0
    assert dict(zip(UNITS, units, strict=True))["AU12_r"] == 4.5


def test_a_full_table_with_more_columns_reads_the_same(tmp_path: Path) -> None:
    path = write_openface(tmp_path / "a.csv", [0.0, 3.0])
    lines = path.read_text().splitlines()
    full = [
        line.replace(", ", ", gaze_0_x, ", 1) if n == 0 else line.replace(", ", ", 0.5, ", 1)
        for n, line in enumerate(lines)
    ]
    path.write_text("\n".join(full) + "\n")
    table = read_action_units(path)
    assert table is not None
    assert table.peak[0] == 1


def test_frames_where_tracking_failed_count_for_nothing(tmp_path: Path) -> None:
    path = write_openface(tmp_path / "a.csv", [1.0, 5.0, 5.0, 2.0])
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace("0.98, 1,", "0.98, 0,")  # success 0
    lines[3] = lines[3].replace("0.98, 1,", "0.40, 1,")  # hardly a face
    path.write_text("\n".join(lines) + "\n")
    table = read_action_units(path)
    assert table is not None
    assert table.frames.tolist() == [0, 3]
    assert table.peak[0] == 3


def test_of_two_faces_in_a_frame_the_more_certain_counts(tmp_path: Path) -> None:
    path = write_openface(tmp_path / "a.csv", [1.0])
    line = path.read_text().splitlines()[1]
    other = line.replace("0.98", "0.99").replace("1.00", "4.00")
    path.write_text(path.read_text() + other + "\n")
    table = read_action_units(path)
    assert table is not None
    assert table.intensities.shape == (1, 17)
    assert table.intensities.max() == 4.0


def test_no_usable_frame_is_no_table(tmp_path: Path) -> None:
    assert read_action_units(write_openface(tmp_path / "a.csv", [1.0, 2.0], confidence=0.1)) is None


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "frame, AU01_r\n1, 2\n"])
def test_another_kind_of_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="not an OpenFace 2 table"):
        read_action_units(path)


def test_a_broken_row_is_named_by_its_line(tmp_path: Path) -> None:
    path = write_openface(tmp_path / "a.csv", [1.0, 2.0])
    path.write_text(path.read_text() + "3, 0, 0.1, high, 1\n")
    with pytest.raises(ValueError, match="line 4"):
        read_action_units(path)


def test_a_clips_table_lies_under_openface_at_the_clips_path(tmp_path: Path) -> None:
    path = write_openface(tmp_path / "OpenFace" / "train" / "dia0_utt0.csv", [1.0])
    assert table_of(tmp_path, "train/dia0_utt0.mp4") == path
    assert table_of(tmp_path, "train/dia0_utt1.mp4") is None


def rewrite(path: Path, old: str, new: str) -> Path:
    path.write_text(path.read_text().replace(old, new))
    return path


def probe(frames: int, duration: float | None) -> Probe:
    return Probe(
        duration=duration, frames=frames, fps=None, width=8, height=8, codec="h264", rotation=0, has_audio=False
    )


def test_decimal_commas_are_refused_with_their_remedy(tmp_path: Path) -> None:
    path = write_openface(tmp_path / "a.csv", [0.0, 1.0])
    path.write_text("\n".join(line.replace(".", ",") for line in path.read_text().splitlines()) + "\n")
    with pytest.raises(ValueError, match=r"line 2: .* cells, the header has 22; .*LC_ALL=C"):
        read_action_units(path)


def test_decimal_commas_between_semicolons_are_read(tmp_path: Path) -> None:
    path = write_openface(tmp_path / "a.csv", [0.0, 3.5, 1.0])
    path.write_text(path.read_text().replace(", ", ";").replace(".", ","))
    table = read_action_units(path)
    assert table is not None
    assert (table.peak[0], table.peak[1].max()) == (1, 3.5)


@pytest.mark.parametrize("value", ["-1.20", "9.70", "nan", "inf"])
def test_an_intensity_outside_its_scale_is_refused_with_its_line(tmp_path: Path, value: str) -> None:
    path = rewrite(write_openface(tmp_path / "a.csv", [0.0, 3.5]), "3.50", value)
    with pytest.raises(ValueError, match=r"line 3: AU12_r is .* outside 0\.\.5"):
        read_action_units(path)


def test_a_row_with_a_cell_too_many_is_refused(tmp_path: Path) -> None:
    path = rewrite(write_openface(tmp_path / "a.csv", [0.0, 3.5]), "2, 0,", "2, 0, 0,")
    with pytest.raises(ValueError, match="line 3: 23 cells"):
        read_action_units(path)


def test_a_last_row_that_was_being_written_is_left_out(tmp_path: Path) -> None:
    path = write_openface(tmp_path / "a.csv", [0.0, 3.5, 1.0])
    path.write_text(path.read_text()[:-40])
    table = read_action_units(path)
    assert table is not None
    assert table.frames.tolist() == [0, 1]


def test_a_table_of_another_clip_is_told_by_its_clock_or_its_frames(tmp_path: Path) -> None:
    table = read_action_units(write_openface(tmp_path / "a.csv", [0.0, 4.0], frames=48))
    assert table is not None
    assert table.mismatch(probe(48, 2.0)) == ""
    assert table.mismatch(probe(47, 2.0)) == "", "OpenCV, which OpenFace reads with, may lose a frame"
    assert "its clock runs for 2.00 s" in table.mismatch(probe(240, 10.0))
    assert "48 frames, the clip 240" in table.mismatch(probe(240, None))


def test_a_table_at_another_frame_rate_is_read_by_its_clock(tmp_path: Path) -> None:
    values = [0.0] * 24 + [4.0] + [0.0] * 23  # 24 a second: the peak is at 1 s
    table = read_action_units(write_openface(tmp_path / "a.csv", values))
    assert table is not None
    assert table.peak_frame(48) == 24
    assert table.peak_frame(60) == 30, "a clip of 30 frames a second"
    assert table.mismatch(probe(60, 2.0)) == ""


def test_frames_counted_from_zero_are_the_clips_frames(tmp_path: Path) -> None:
    path = write_openface(tmp_path / "a.csv", [0.0, 4.0, 0.0])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(f"{n}, {line.partition(', ')[2]}" for n, line in enumerate(lines[1:]))]))
    table = read_action_units(path)
    assert table is not None
    assert table.peak[0] == 1
