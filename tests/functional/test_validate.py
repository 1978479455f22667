"""The validate step on a small MELD: what it publishes, what it refuses, and that nothing is lost."""

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from emoverse.artifacts.manifest import open_raw, open_source
from emoverse.artifacts.tables import read_action_units, read_utterances
from emoverse.cli.__init__ import main
from emoverse.cli.data import summary_text
from emoverse.config import MediaParams, ValidationParams
from emoverse.corpora import get_corpus
from emoverse.errors import UserError
from emoverse.media.extract import extract
from emoverse.media.frames import FrameStore
from emoverse.validation.plan import make_plan
from emoverse.validation.validate import fingerprint_of, validate
from tests.factories.browser import PHONE, width_on_a_phone
from tests.factories.clips import cut, picture, write_clip
from tests.factories.meld import clip, edit, make_meld

MEDIA = MediaParams(frames=4, size=32, timeout=20.0)
LIMITS = ValidationParams(max_quarantined=0.9, min_duration=0.2, max_duration=60.0, max_duration_gap=2.0)
FILES = {
    "action_units.parquet", "frames/00000.tar", "frames/index.parquet", "page.html", "probe.parquet",
    "quarantine.parquet", "summary.json", "utterances.parquet",
}  # fmt: skip


def run(raw: Path, out: Path, *, workers: int = 1, limits: ValidationParams = LIMITS) -> dict:
    validate("meld", raw, out, MEDIA, limits, workers=workers)
    return json.loads((out / "summary.json").read_text())


def quarantine(out: Path) -> dict[str, dict]:
    rows = pq.read_table(out / "quarantine.parquet").to_pylist()
    return {row["row_id"]: row for row in rows}


def test_a_sound_corpus_passes_whole(tmp_path: Path) -> None:
    raw = make_meld(tmp_path / "MELD", openface=[0.0, 1.0, 5.0, 2.0])
    out = tmp_path / "out"
    summary = run(raw, out)
    manifest = open_source(out, made_by="validate").manifest
    assert set(manifest["outputs"]["files"]) == FILES
    assert manifest["rows"] == {"in": 10, "out": 10, "dropped": {}}
    assert summary["rows"]["out"] == 10
    assert not list(tmp_path.glob(".out.*scratch")), "nothing hidden stays behind"
    utterances = list(read_utterances(out / "utterances.parquet"))
    assert utterances == sorted(get_corpus("meld").read(raw).utterances, key=lambda u: u.utterance_id)
    store = FrameStore([out])
    for u in utterances:
        assert store[f"clip:{u.utterance_id}"].shape == (4, 32, 32, 3)
        assert store[f"clip:{u.utterance_id}#peak"].shape == (1, 32, 32, 3)
    faces = list(read_action_units(out / "action_units.parquet"))
    assert [face.frame for face in faces] == [2] * 10
    assert faces[0].intensities["AU12_r"] == 5.0
    index = pq.read_table(out / "frames" / "index.parquet").to_pylist()
    assert [row["frame"] for row in index[:5]] == [2, 8, 14, 19, 2]
    assert [row["kind"] for row in index[:5]] == ["uniform"] * 4 + ["peak"]


def test_without_action_units_the_still_is_the_middle_frame(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(make_meld(tmp_path / "MELD"), out)
    peaks = [r["frame"] for r in pq.read_table(out / "frames/index.parquet").to_pylist() if r["kind"] == "peak"]
    assert peaks == [12] * 10
    assert not list(read_action_units(out / "action_units.parquet"))


def test_an_unusable_openface_table_costs_the_peak_not_the_clip(tmp_path: Path) -> None:
    raw = make_meld(tmp_path / "MELD", openface=[0.0, 5.0])
    tables = sorted((raw / "OpenFace").rglob("*.csv"))
    tables[0].write_text("nonsense\n")
    tables[1].write_text(tables[1].read_text().replace("2, 0, 0.042", "99, 0, 0.042"))  # beyond the clip's end
    summary = run(raw, tmp_path / "out")
    assert summary["rows"]["out"] == 10
    assert summary["action_units"]["clips"] == 8
    assert summary["action_units"]["unusable_tables"] == 2


def test_each_fault_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    raw = make_meld(tmp_path / "MELD", {"train": 12, "dev": 3, "test": 3})
    cut(clip(raw, 0, 0), 0.5)
    clip(raw, 0, 1).write_bytes(b"")
    clip(raw, 0, 2).unlink()
    clip(raw, 1, 0).write_text("not a video")
    write_clip(clip(raw, 1, 1), frames=3)  # 0.125 s
    shutil.copy(clip(raw, 3, 0), clip(raw, 7, 7))  # nobody annotates it
    edit(raw, '5,"No, I don\'t.",Ross,sadness', '5,"No, I don\'t.",Ross,sadnes')  # also dia1_utt1
    summary = run(raw, tmp_path / "out")
    found = quarantine(tmp_path / "out")
    assert {row_id: row["reason"] for row_id, row in found.items()} == {
        "meld/train/dia0_utt0": "clip-truncated",
        "meld/train/dia0_utt1": "clip-empty",
        "meld/train/dia0_utt2": "clip-missing",
        "meld/train/dia1_utt0": "clip-unreadable",
        "meld/train/dia1_utt1": "bad-label",
        "train/train_splits/dia7_utt7.mp4": "clip-unannotated",
    }
    assert found["meld/train/dia0_utt1"]["source"].startswith("train_sent_emo.csv:3")
    for row_id, row in found.items():
        assert row["clip"] == f"train/train_splits/{row_id.rpartition('/')[2].removesuffix('.mp4')}.mp4"
    assert "FFmpeg" in found["meld/train/dia1_utt0"]["detail"]
    assert summary["rows"]["in"] == 18
    assert summary["rows"]["out"] == 13
    assert sum(summary["rows"]["dropped"].values()) == 5
    assert summary["unannotated_clips"] == 1


def test_a_clip_out_of_bounds_is_quarantined_by_its_expectation(tmp_path: Path) -> None:
    raw = make_meld(tmp_path / "MELD")
    write_clip(clip(raw, 0, 1), frames=3)  # 0.125 s
    write_clip(clip(raw, 1, 1), frames=96)  # 4 s; annotated as one second
    summary = run(raw, tmp_path / "out")
    found = quarantine(tmp_path / "out")
    assert [row["reason"] for row in found.values()] == ["clip-too-short"]
    detail = found["meld/train/dia0_utt1"]["detail"]
    assert detail == "duration=0.125, against: A clip lasts at least 0.2 s."
    store = FrameStore([tmp_path / "out"])
    assert "clip:meld/train/dia0_utt1" not in store
    assert "clip:meld/train/dia1_utt1" in store
    warned = {
        e["reason"]: e["failed"] for e in summary["expectations"] if not e["success"] and e["severity"] == "warning"
    }
    assert warned["duration-gap"] == 1


def black(index: int, width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def half_black(index: int, width: int, height: int) -> np.ndarray:
    return black(index, width, height) if index < 12 else picture(index, width, height)


def frozen(index: int, width: int, height: int) -> np.ndarray:
    return picture(0, width, height)


def test_black_frozen_silent_and_hdr_clips_pass_with_a_warning_that_names_them(
    tmp_path: Path,
) -> None:
    raw, out = make_meld(tmp_path / "MELD"), tmp_path / "out"
    write_clip(clip(raw, 0, 0), draw=black, sound=True)
    write_clip(clip(raw, 0, 1), draw=half_black, sound=True)
    write_clip(clip(raw, 0, 2), draw=frozen, sound=True)
    write_clip(clip(raw, 1, 0), sound=True, volume=0.0)
    write_clip(clip(raw, 1, 1), codec="libx265", options={"x265-params": "transfer=smpte2084:log-level=0"}, sound=True)
    write_clip(clip(raw, 1, 2), sound=True)
    summary = run(raw, out, workers=2)
    assert summary["rows"]["out"] == 10, "a warning costs no row"
    measured = {
        (reason, row["utterance_id"].removeprefix("meld/train/"), row["measured"])
        for reason, warning in summary["warnings"].items()
        for row in warning["rows"]
        if reason.startswith("clip-")
    }
    assert measured == {
        ("clip-black", "dia0_utt0", "black=1.0"),
        ("clip-black", "dia0_utt1", "black=0.5"),
        ("clip-frozen", "dia0_utt0", "frozen=1.0"),
        ("clip-frozen", "dia0_utt2", "frozen=1.0"),
        ("clip-silent", "dia1_utt0", "silent=True"),
        ("clip-hdr", "dia1_utt1", "hdr=True"),
    }
    assert summary["warnings"]["no-audio"]["count"] == 4
    probes = {row["utterance_id"]: row for row in pq.read_table(out / "probe.parquet").to_pylist()}
    row = probes["meld/train/dia0_utt1"]
    assert (row["black"], row["frozen"], row["silent"]) == (0.5, pytest.approx(1 / 3, abs=1e-6), False)
    shown = summary_text(summary, out)
    page = (out / "page.html").read_text()
    for reason, name, value in measured:
        assert f"meld/train/{name}: {value}" in page, reason
    for reason, count, first in [
        ("clip-black", 2, "dia0_utt0 black=1.0"),
        ("clip-frozen", 2, "dia0_utt0 frozen=1.0"),
        ("clip-silent", 1, "dia1_utt0 silent=True"),
        ("clip-hdr", 1, "dia1_utt1 hdr=True"),
    ]:
        assert f"warning     {count:5d}  {reason} (first: meld/train/{first})" in shown


@pytest.mark.parametrize("library", ["av", "numpy", "pillow"])
def test_a_journal_of_another_version_of_a_decoding_library_is_not_gone_on_with(
    tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = make_meld(tmp_path / "MELD", {"train": 1, "dev": 1, "test": 1})
    source, plan = open_raw(raw, name="meld"), make_plan("meld", raw, MEDIA)
    before = fingerprint_of(plan, source, MEDIA, {})
    assert fingerprint_of(plan, source, MEDIA, {}) == before
    scratch = tmp_path / "scratch"
    assert [extract(plan.tasks, scratch, fingerprint=before, workers=1) for _ in range(2)] == [0, 3]
    installed = metadata.distribution
    other = tmp_path / "site" / f"{library}-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: 0.0.1\n")
    monkeypatch.setattr(
        metadata, "distribution", lambda name: metadata.Distribution.at(other) if name == library else installed(name)
    )
    assert metadata.version(library) == "0.0.1"
    after = fingerprint_of(plan, source, MEDIA, {})
    assert after != before
    assert extract(plan.tasks, scratch, fingerprint=after, workers=1) == 0, "nothing of the former run was taken"


def test_too_many_bad_rows_fail_the_step_after_writing_everything(tmp_path: Path) -> None:
    raw = make_meld(tmp_path / "MELD")
    out = tmp_path / "out"
    run(raw, out)
    before = open_source(out).digest
    clip(raw, 0, 0).unlink()
    clip(raw, 0, 1).unlink()
    strict = ValidationParams(max_quarantined=0.1, min_duration=0.2, max_duration=60.0, max_duration_gap=2.0)
    with pytest.raises(UserError, match=r"2 of 10 rows \(20\.0%\).*clip-missing 2.*out\.failed/page\.html"):
        run(raw, out, limits=strict)
    assert open_source(out).digest == before, "the earlier output is intact"
    failed = tmp_path / "out.failed"
    assert {"quarantine.parquet", "page.html", "summary.json"} <= {p.name for p in failed.iterdir()}
    assert not (failed / "manifest.json").exists()
    assert set(quarantine(failed)) == {"meld/train/dia0_utt0", "meld/train/dia0_utt1"}
    assert run(raw, out)["rows"]["out"] == 8, "with a higher limit it passes"
    assert not failed.exists()
    assert json.loads((tmp_path / "out.run.json").read_text())["resumed_clips"] == 8, "and decodes nothing again"


def test_the_output_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    raw = make_meld(tmp_path / "MELD", openface=[0.0, 2.0, 1.0])
    clip(raw, 0, 2).write_bytes(b"")
    digests = set()
    for workers in (1, 3):
        run(raw, tmp_path / f"out{workers}", workers=workers)
        digests.add(open_source(tmp_path / f"out{workers}").digest)
    assert len(digests) == 1


def leave(raw: Path) -> str:
    outside = raw.parent / "outside.mp4"
    shutil.copy(clip(raw, 0, 0), outside)
    clip(raw, 0, 0).unlink()
    clip(raw, 0, 0).symlink_to(outside)
    return "clip-outside-root"


def folder_in_place(raw: Path) -> str:
    clip(raw, 0, 0).unlink()
    clip(raw, 0, 0).mkdir()
    return "clip-unreadable"


@pytest.mark.parametrize("damage", [leave, folder_in_place])
def test_what_lies_at_a_clips_place_must_be_a_file_of_the_corpus(tmp_path: Path, damage: Callable[[Path], str]) -> None:
    raw = make_meld(tmp_path / "MELD")
    reason = damage(raw)
    run(raw, tmp_path / "out")
    assert quarantine(tmp_path / "out")["meld/train/dia0_utt0"]["reason"] == reason


def test_known_faults_of_the_published_clips_are_marked(tmp_path: Path) -> None:
    raw = make_meld(tmp_path / "MELD", {"train": 4, "dev": 2, "test": 2})
    edit(raw, "neutral,neutral,0,0,", "neutral,neutral,125,3,")  # its clip is known to be corrupt
    clip(raw, 0, 0).write_bytes(b"")  # not known
    clip(raw, 125, 3).write_bytes(b"")
    shutil.copy(clip(raw, 0, 1), raw / "test/output_repeated_splits_test/final_videos_testdia93_utt5.mp4")
    summary = run(raw, tmp_path / "out")
    found = quarantine(tmp_path / "out")
    assert found["meld/train/dia125_utt3"]["known"]
    assert found["test/output_repeated_splits_test/final_videos_testdia93_utt5.mp4"]["known"]
    assert not found["train/train_splits/dia0_utt0.mp4"]["known"]
    assert summary["known_faults"]["quarantined"] == 2
    assert "declare-lab/MELD issues 39, 52" in (tmp_path / "out/page.html").read_text()


class Page(HTMLParser):
    """Collect the tags and outside addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]


def test_the_page_stands_alone_and_escapes_what_strangers_wrote(tmp_path: Path) -> None:
    raw = make_meld(tmp_path / "MELD")
    edit(raw, '5,"No, I don\'t.",Ross,sadness', "5,<img src=x>,Ross,<script>alert(1)</script>")
    run(raw, tmp_path / "out")
    text = (tmp_path / "out" / "page.html").read_text()
    page = Page()
    page.feed(text)
    assert page.links == [], "nothing is fetched from elsewhere"
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert width_on_a_phone(tmp_path / "out" / "page.html") == PHONE
    assert "&lt;script&gt;alert(1)" in text
    assert "http" not in text


def test_the_verb_prints_a_short_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = make_meld(tmp_path / "MELD"), tmp_path / "out"
    clip(raw, 0, 0).unlink()
    words = ["validate", "--corpus", "meld", "--raw", str(raw), "--out", str(out), "--workers", "1"]
    words += ["--set", "validation.max_quarantined=0.5", "--set", "media.size=32"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "10 rows in, 9 out (" in printed
    assert "1  clip-missing" in printed
    assert len(printed.splitlines()) < 15
    assert main([*words, "--json"]) == 0
    counted = {"in": 10, "out": 9, "dropped": {"clip-missing": 1}}
    assert json.loads(capsys.readouterr().out)["rows"] == counted
    assert main([*words, "--json", "--set", "validation.max_quarantined=0.05"]) == 2
    assert json.loads(capsys.readouterr().out)["rows"] == counted, "too much is said after what was wrong"


def test_an_unknown_corpus_and_a_missing_folder_are_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = make_meld(tmp_path / "MELD")
    for corpus, folder, word in (("meldd", raw, "did you mean 'meld'"), ("meld", tmp_path / "none", "dvc pull")):
        words = ["validate", "--corpus", corpus, "--raw", str(folder), "--out", str(tmp_path / "out")]
        assert main(words) == 2
        printed = capsys.readouterr().err.strip()
        assert word in printed
        assert len(printed.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_frames_show_the_moments_they_claim(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(make_meld(tmp_path / "MELD"), out)
    frames = FrameStore([out])["clip:meld/train/dia0_utt0"].astype(int)
    steps = [np.abs(frames[k] - frames[0]).mean() for k in range(4)]
    assert steps[0] == 0
    assert min(steps[1:]) > 5, "the picture moves, so different moments differ"
