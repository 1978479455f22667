"""A corpus validated in parts and joined gives the very bytes that one machine gives."""

import json
import shutil
from pathlib import Path

import pytest

from emoverse.artifacts.manifest import open_source
from emoverse.cli.__init__ import main
from emoverse.config import MediaParams, ValidationParams
from emoverse.errors import UserError
from emoverse.media import shards
from emoverse.validation.validate import join_parts, validate, validate_part
from tests.factories.clips import cut
from tests.factories.meld import clip, edit, make_meld

MEDIA = MediaParams(frames=2, size=32, timeout=20.0)
LIMITS = ValidationParams(max_quarantined=0.9, min_duration=0.2, max_duration=60.0, max_duration_gap=2.0)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus with something wrong in each of its parts, and a file nobody annotates."""
    root = make_meld(tmp_path_factory.mktemp("raw") / "MELD", {"train": 6, "dev": 2, "test": 2}, openface=[0.0, 3.0])
    clip(root, 0, 0).write_bytes(b"")
    cut(clip(root, 1, 0), 0.5)
    clip(root, 0, 1, "test").unlink()
    edit(root, '3,"No, I don\'t.",Ross,anger', '3,"No, I don\'t.",Ross,angr')
    (root / "README.txt").write_text("as distributed")
    return root


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "meld"
    validate("meld", raw, out, MEDIA, LIMITS, workers=1)
    return out


def make_parts(raw: Path, folder: Path, count: int, media: MediaParams = MEDIA) -> list[Path]:
    parts = [folder / f"part{number}" for number in range(1, count + 1)]
    for number, part in enumerate(parts, start=1):
        validate_part("meld", raw, part, media, part=number, parts=count, workers=1)
    return parts


@pytest.mark.parametrize("count", [1, 2, 3])
def test_joined_parts_equal_what_one_machine_makes(raw: Path, whole: Path, tmp_path: Path, count: int) -> None:
    out = tmp_path / "meld"
    parts = make_parts(raw, tmp_path, count)
    join_parts("meld", raw, parts[::-1], out, MEDIA, LIMITS)
    assert open_source(out).digest == open_source(whole).digest
    assert (out / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()
    assert json.loads((out / "summary.json").read_text())["rows"]["out"] == 6
    assert not list(tmp_path.glob(".*scratch"))


def test_shards_are_cut_where_one_pass_cuts_them(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_CLIPS", 3)
    validate("meld", raw, tmp_path / "whole", MEDIA, LIMITS, workers=1)
    join_parts("meld", raw, make_parts(raw, tmp_path, 2), tmp_path / "joined", MEDIA, LIMITS)
    assert len(list((tmp_path / "joined" / "frames").glob("*.tar"))) == 2
    assert open_source(tmp_path / "joined").digest == open_source(tmp_path / "whole").digest


def test_more_parts_than_clips_leave_some_empty(tmp_path: Path) -> None:
    raw = make_meld(tmp_path / "MELD", {"train": 1, "dev": 1, "test": 1})
    validate("meld", raw, tmp_path / "whole", MEDIA, LIMITS, workers=1)
    join_parts("meld", raw, make_parts(raw, tmp_path, 5), tmp_path / "joined", MEDIA, LIMITS)
    assert open_source(tmp_path / "joined").digest == open_source(tmp_path / "whole").digest


def test_parts_that_do_not_belong_together_are_refused(raw: Path, tmp_path: Path) -> None:
    one, two = make_parts(raw, tmp_path, 2)
    other = MediaParams(frames=3, size=32, timeout=20.0)
    for parts, media, word in (
        ([one], MEDIA, "1 of 2 parts are given"),
        ([one, one], MEDIA, "part 2 is missing, or part 1 given twice"),
        ([one, two], other, "another media"),
    ):
        with pytest.raises(UserError, match=word):
            join_parts("meld", raw, parts, tmp_path / "out", media, LIMITS)
    with pytest.raises(UserError, match="emoverse validate --part"):
        join_parts("meld", raw, [one, tmp_path / "nowhere"], tmp_path / "out", MEDIA, LIMITS)
    (two / "frames" / "00000.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"00000\.tar changed"):
        join_parts("meld", raw, [one, two], tmp_path / "out", MEDIA, LIMITS)
    assert not (tmp_path / "out").exists()


def test_a_corpus_that_changed_between_the_parts_is_refused(tmp_path: Path) -> None:
    raw = make_meld(tmp_path / "MELD", {"train": 2, "dev": 2, "test": 2})
    parts = make_parts(raw, tmp_path, 2)
    (raw / "late.txt").write_text("x")
    with pytest.raises(UserError, match=r"1 files came or went since, such as late\.txt"):
        join_parts("meld", raw, parts, tmp_path / "out", MEDIA, LIMITS)
    (raw / "late.txt").unlink()
    edit(raw, ",Ross,joy,", ",Rachel,joy,")
    with pytest.raises(UserError, match="annotations are not those"):
        join_parts("meld", raw, parts, tmp_path / "out", MEDIA, LIMITS)


def test_the_verb_makes_parts_and_joins_them(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["validate", "--corpus", "meld", "--raw", str(raw), "--set", "validation.max_quarantined=0.9"]
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, part in enumerate(parts, start=1):
        assert main([*words, "--part", f"{number}/2", "--out", str(part), "--workers", "1"]) == 0
    assert "part 2 of 2, 4 clips" in capsys.readouterr().out
    assert main([*words, "--join", *map(str, parts), "--out", str(tmp_path / "out")]) == 0
    assert "10 rows in, 6 out" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words, "--part", "3/2", "--out", str(tmp_path / "3")])
    assert main([*words, "--join", str(parts[0]), "--workers", "2", "--out", str(tmp_path / "out")]) == 2
    shutil.rmtree(parts[0])
    assert main([*words, "--join", *map(str, parts), "--out", str(tmp_path / "out")]) == 2
    assert "no such folder" in capsys.readouterr().err
