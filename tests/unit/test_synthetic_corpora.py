import csv
import hashlib
import json
from pathlib import Path

import av
import h5py
import numpy as np
import pandas as pd
import pytest

from emoverse.synthetic import SAMPLE_IDENTITIES
from emoverse.synthetic.clips import HEADER, NOISE
from emoverse.synthetic.corpora import CORPORA, clip_name, clip_time, generate, plan_meld, plan_mosei, store
from emoverse.synthetic.lines import FAULTS, FIRST_GUEST, planted_fault, render_line
from tests.factories.checkout import REPO

pytestmark = pytest.mark.slow

SEED, SCALE = 5, 0.12


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample")
    generate(out, SEED, SCALE)
    return out


def digests(root: Path):
    return {p.relative_to(root): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


def meld_rows(sample: Path, split: str):
    with (sample / "MELD" / f"{split}_sent_emo.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def ecf_records(sample: Path, split: str):
    return json.loads((sample / "ECF" / f"Subtask_2_{split}.json").read_text(encoding="utf-8"))


def mosei_labels(sample: Path):
    return pd.read_csv(sample / "MOSEI" / "label.csv", dtype={"video_id": str, "clip_id": str, "text": str})


def test_writing_twice_gives_the_same_bytes(sample, tmp_path):
    generate(tmp_path, SEED, SCALE)
    assert digests(tmp_path) == digests(sample)


def test_another_seed_gives_other_words(sample):
    assert plan_meld(SEED, SCALE)["train"][0].lines[0] != plan_meld(SEED + 1, SCALE)["train"][0].lines[0]


def test_meld_csv_files_have_crlf_and_no_byte_order_mark(sample):
    raw = (sample / "MELD" / "train_sent_emo.csv").read_bytes()
    assert raw.startswith(b"Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,")
    assert raw.count(b"\r\n") == raw.count(b"\n") > 1


def test_meld_dialogues_restart_in_every_split(sample):
    assert all(meld_rows(sample, split)[0]["Dialogue_ID"] == "0" for split in ("train", "dev", "test"))


def test_meld_times_come_in_both_formats():
    assert clip_time(878.127, short_hours=False) == "00:14:38,127"
    assert clip_time(644.769, short_hours=True) == "0:10:44,769"


def test_ecf_pairs_name_the_emotion_of_their_utterance(sample):
    for split in ("train", "test"):
        for record in ecf_records(sample, split):
            emotions = {u["utterance_ID"]: u["emotion"] for u in record["conversation"]}
            assert list(emotions) == list(range(1, len(emotions) + 1))
            for target, _ in record["emotion-cause_pairs"]:
                number, emotion = target.split("_")
                assert emotions[int(number)] == emotion != "neutral"


def test_ecf_train_repeats_utterances_of_meld_test(sample):
    test = {(f"S{int(r['Season']):02d}E{int(r['Episode']):02d}", r["Utterance"]) for r in meld_rows(sample, "test")}
    train = [(u["video_source"][0], u["text"]) for r in ecf_records(sample, "train") for u in r["conversation"]]
    assert len(test.intersection(train)) >= 3


def test_mosei_labels_join_the_csd_by_time_and_not_by_clip_order(sample):
    labels = mosei_labels(sample).set_index(["video_id", "clip_id"])
    shuffled = 0
    with h5py.File(sample / "MOSEI" / "CMU_MOSEI_Labels.csd") as file:
        for video_id, group in file["All Labels/data"].items():
            transcript = sample / "MOSEI" / "Transcript" / "Segmented" / "Combined" / f"{video_id}.txt"
            rows = [line.split("___") for line in transcript.read_text(encoding="utf-8").splitlines()]
            spans = np.array([[float(start), float(end)] for _, _, start, end, _ in rows])
            assert np.allclose(spans, group["intervals"][:], atol=1e-3)
            assert group["features"].shape == (len(rows), 7)
            shuffled += [row[1] for row in rows] != sorted(row[1] for row in rows)
            for row, features in zip(rows, group["features"][:], strict=True):
                label = labels.loc[(video_id, row[1])]
                assert label["text"] == row[4]
                if f"{video_id}/{row[1]}" != planted_fault("MOSEI", "sentiment out of range").row:
                    assert label["label"] == pytest.approx(features[0], abs=1e-3)
    assert shuffled


def test_mosei_has_ids_of_digits_and_ids_that_start_with_a_dash(sample):
    ids = set(mosei_labels(sample)["video_id"])
    assert any(name.isdigit() for name in ids)
    assert any(name.startswith("-") for name in ids)


def test_one_cmu_emotion_is_above_three(sample):
    with h5py.File(sample / "MOSEI" / "CMU_MOSEI_Labels.csd") as file:
        values = np.concatenate([group["features"][:, 1:] for group in file["All Labels/data"].values()])
    assert (values > 3).sum() == 1


@pytest.mark.parametrize(
    "planted", [f for f in FAULTS if f.file.endswith(".mp4")], ids=lambda f: f"{f.corpus} {f.kind}"
)
def test_a_media_fault_is_as_named(sample, planted):
    clip = sample / planted.corpus / planted.file
    if planted.kind == "missing clip":
        assert not clip.exists()
    elif planted.kind == "zero-byte clip":
        assert clip.stat().st_size == 0
    elif planted.kind == "truncated clip":
        with pytest.raises(av.error.FFmpegError):
            av.open(str(clip))
    else:
        with av.open(str(clip)) as container:
            assert sum(1 for _ in container.decode(video=0)) >= 12


def test_meld_train_has_a_duplicate_id_and_a_misspelt_emotion(sample):
    rows = meld_rows(sample, "train")
    names = [f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}" for row in rows]
    assert [name for name in set(names) if names.count(name) > 1] == [planted_fault("MELD", "duplicate id").row]
    wrong = planted_fault("MELD", "misspelt emotion")
    assert [n for n, row in zip(names, rows, strict=True) if row["Emotion"] == wrong.value] == [wrong.row]


def test_ecf_has_a_cause_that_does_not_exist(sample):
    wrong = planted_fault("ECF", "cause index out of range")
    causes = {str(r["conversation_ID"]): [c for _, c in r["emotion-cause_pairs"]] for r in ecf_records(sample, "train")}
    assert [number for number, found in causes.items() if wrong.value in found] == [wrong.row]


def test_one_mosei_sentiment_is_out_of_range(sample):
    labels = mosei_labels(sample)
    outside = labels[labels["label"].abs() > 3]
    assert list(outside["video_id"] + "/" + outside["clip_id"]) == [
        planted_fault("MOSEI", "sentiment out of range").row
    ]


def test_openface_tables_agree_with_what_was_drawn(sample):
    dialogue = plan_meld(SEED, SCALE)["test"][0]
    line = dialogue.lines[1]
    path = (sample / "MELD" / "OpenFace" / clip_name("test", 0, line.number)).with_suffix(".csv")
    assert path.read_text().splitlines()[0] == HEADER.replace(", ", ",")
    table = pd.read_csv(path)
    measured = table[[name for name in table if name.endswith("_r")]].to_numpy()
    assert np.abs(measured - render_line(line, SEED).units).max() < 5 * NOISE
    assert list(table["frame"]) == list(range(1, line.n_frames + 1))


def test_every_readable_annotated_clip_has_an_openface_table(sample):
    for corpus in CORPORA:
        root = sample / corpus
        broken = {f.file for f in FAULTS if f.corpus == corpus and f.kind in ("truncated clip", "zero-byte clip")}
        clips = {p.relative_to(root) for p in root.rglob("*.mp4") if p.relative_to(root).as_posix() not in broken}
        tables = {
            p.relative_to(root / "OpenFace").with_suffix(".mp4") for p in root.rglob("*.csv") if "OpenFace" in p.parts
        }
        assert clips == tables


def test_some_test_identities_never_act_in_train():
    meld, mosei = plan_meld(SEED, 1.0), plan_mosei(SEED, 1.0)
    seen = {line.identity for split in ("train", "dev") for d in meld[split] for line in d.lines}
    seen |= {line.identity for video in mosei if video.mode != "test" for line in video.lines}
    test = [line.identity for d in meld["test"] for line in d.lines]
    test += [line.identity for video in mosei if video.mode == "test" for line in video.lines]
    assert max(seen) < FIRST_GUEST
    assert max(test) < SAMPLE_IDENTITIES
    assert 0.25 < sum(person not in seen for person in test) / len(test) < 0.45


def test_the_remote_holds_every_file_under_its_md5(sample, tmp_path):
    digest = store(sample / "ECF", tmp_path)
    listing = json.loads((tmp_path / "files" / "md5" / digest[:2] / digest[2:]).read_bytes())
    assert {entry["relpath"] for entry in listing} == {str(path) for path in digests(sample / "ECF")}
    for entry in listing:
        stored = (tmp_path / "files" / "md5" / entry["md5"][:2] / entry["md5"][2:]).read_bytes()
        assert stored == (sample / "ECF" / entry["relpath"]).read_bytes()


def test_the_sample_in_the_repository_stays_below_ten_megabytes():
    files = [path for path in (REPO / "data/remote").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6
