"""Provoke every fault an annotation file can have: all of a file's problems come in one go, each with its place."""

import json
from pathlib import Path

import pytest

from emoverse.cli.__init__ import main
from emoverse.config import load_params
from emoverse.corpora import ecf, meld, mosei
from emoverse.errors import UserError
from emoverse.validation.plan import make_plan
from tests.conftest import REPO
from tests.factories.corpora import (
    MELD_HEADER,
    csv_bytes,
    ecf_conversation,
    ecf_utterance,
    meld_row,
    mosei_row,
    write_ecf,
    write_meld,
    write_mosei,
)

NO_PAIRS: dict[str, list[str]] = {"emotion-cause_pairs": []}


def test_all_bad_rows_of_a_file_are_listed_in_one_go(tmp_path: Path) -> None:
    rows = [
        meld_row(), meld_row(Utterance_ID="1", Emotion="hapy"), meld_row(Utterance_ID="2", EndTime="x"),
        meld_row(), meld_row(Utterance_ID="3", Utterance=""), meld_row(Utterance_ID="4"),
    ]  # fmt: skip
    reading = meld.read(write_meld(tmp_path, rows))
    assert [(bad.source, bad.column, bad.reason) for bad in reading.quarantined] == [
        ("train_sent_emo.csv:3", "Emotion", "bad-label"), ("train_sent_emo.csv:4", "EndTime", "bad-time"),
        ("train_sent_emo.csv:5", "Utterance_ID", "duplicate-id"), ("train_sent_emo.csv:6", "Utterance", "empty-text"),
    ]  # fmt: skip
    assert reading.rows == len(rows) + 2


@pytest.mark.parametrize("name", ["train_sent_emo.csv", "dev_sent_emo.csv", "test_sent_emo.csv"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (write_meld(tmp_path) / name).unlink()
    with pytest.raises(UserError, match=name):
        meld.read(tmp_path)


def test_mark_crlf_nul_and_bad_bytes_in_one_corpus(tmp_path: Path) -> None:
    root = write_meld(tmp_path)
    good = csv_bytes(MELD_HEADER, [meld_row(Utterance="café")])
    (root / "train_sent_emo.csv").write_bytes(b"\xef\xbb\xbf" + good)
    assert meld.read(root).utterances[0].text == "café"
    (root / "train_sent_emo.csv").write_bytes(
        good.replace(b"Oh", b"O\0") if b"Oh" in good else good.replace(b"caf", b"c\0f")
    )
    assert [bad.reason for bad in meld.read(root).quarantined] == ["nul-byte"]
    latin = good.replace("é".encode(), b"\xe9")
    (root / "train_sent_emo.csv").write_bytes(latin)
    with pytest.raises(UserError, match=rf"train_sent_emo\.csv: byte 0xe9 at offset {latin.index(0xE9)}"):
        meld.read(root)


@pytest.mark.parametrize("raw", [b"{", b'[{"conversation_ID": 1,}]', b"[1, 2", b""])
def test_json_that_is_none_is_named_with_line_and_column(tmp_path: Path, raw: bytes) -> None:
    root = write_ecf(tmp_path)
    (root / "Subtask_2_train.json").write_bytes(raw)
    with pytest.raises(UserError, match=r"Subtask_2_train\.json:\d+:\d+: not JSON"):
        ecf.read(root)


def test_json_of_another_shape_is_named(tmp_path: Path) -> None:
    root = write_ecf(tmp_path)
    (root / "Subtask_2_train.json").write_text("{}", "utf-8")
    with pytest.raises(UserError, match="is not a list of conversations"):
        ecf.read(root)


def test_a_cause_that_does_not_exist_and_a_misspelt_label_come_together(tmp_path: Path) -> None:
    one = ecf_conversation(1, **{"emotion-cause_pairs": [["3_joy", "7"]]})
    two = ecf_conversation(2, conversation=[ecf_utterance(1, 2, emotion="angr")], **{"emotion-cause_pairs": []})
    reading = ecf.read_split(write_ecf(tmp_path, [one, two]) / "Subtask_2_train.json", "train")
    assert [(bad.column, bad.reason) for bad in reading.quarantined] == [
        ("emotion-cause_pairs[0]", "bad-cause"),
        ("emotion", "bad-label"),
    ]
    assert "did you mean 'anger'?" in reading.quarantined[1].detail


@pytest.mark.parametrize("video", ["..", "a/../../b", "/etc", "a\\b", " x", "x\n", ""])
def test_an_id_that_leaves_the_corpus_is_refused(tmp_path: Path, video: str) -> None:
    reading = mosei.read(write_mosei(tmp_path, [mosei_row(video_id=video)]))
    assert not reading.utterances
    assert reading.quarantined[0].reason in ("bad-id", "line-break")


@pytest.mark.parametrize("video", ["128258", "-iRBcNs9oI8", "with space", "naïve", "0x1F", "1e5", "NULL", "NA", "nan"])
def test_an_id_that_looks_like_something_else_stays_itself(tmp_path: Path, video: str) -> None:
    (one,) = mosei.read(write_mosei(tmp_path, [mosei_row(video_id=video)])).utterances
    assert (one.dialogue_id, one.clip) == (video, f"Raw/{video}/9.mp4")


def test_the_cli_says_it_on_one_line_and_exits_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_meld(tmp_path / "meld", [meld_row(Emotion="hapy"), meld_row(Utterance_ID="1", EndTime="?")])
    command = [
        "published",
        "meld",
        "--annotations",
        str(root / "train_sent_emo.csv"),
        "--split",
        "train",
        "--out",
        str(tmp_path / "x.json"),
    ]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "2 bad row(s)" in message
    assert "train_sent_emo.csv:2: Emotion: 'hapy' is not an emotion; did you mean 'joy'?" in message
    assert "Traceback" not in message
    assert not (tmp_path / "x.json").exists()
    command[1], command[3], command[5] = "ecf", str(write_ecf(tmp_path / "ecf") / "Subtask_2_test.json"), "validation"
    assert main(command) == 2
    assert "no validation split" in capsys.readouterr().err


def test_an_audit_of_files_that_do_not_belong_together_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_meld(tmp_path / "meld")
    train = write_ecf(tmp_path / "ecf") / "Subtask_2_train.json"
    mapping = tmp_path / "map.txt"
    command = ["audit", "--meld", str(folder), "--ecf-train", str(train), "--ecf-mapping", str(mapping), "--json"]
    for text, says in (
        ("1 1\n\n1 | Ann | joy | Hi . | train_dia99_utt9\n", "MELD has no meld/train/dia99_utt9"),
        ("1 1\n\n1 | Ann | joy | Hi . | \n", "maps no utterance"),
        ("what is this\n", "map.txt:1: neither a header"),
        ("1 3\n\n1 | Ann | joy | Hi . | \n", "map.txt:1: neither a header"),
        ("1 1\n\n1 | Ann\n", "map.txt:3: 2 fields"),
    ):
        mapping.write_text(text, "utf-8")
        assert main(command) == 2
        assert says in capsys.readouterr().err
    mapping.write_text("1 1\n\n1 | Ann | joy | Hi . | test_dia0_utt0\n", "utf-8")
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["leakage"]["meld_test_utterances"] == 1
    assert report["leakage"]["kept_conversations"] == 0


def test_a_row_says_all_that_is_wrong_with_it(tmp_path: Path) -> None:
    row = meld_row(Emotion="hapy", Sentiment="glad", Season="x", EndTime="0:16")
    (one,) = meld.read(write_meld(tmp_path / "meld", [row])).quarantined
    assert (one.column, one.reason) == ("Season", "bad-number")
    assert all(part in one.detail for part in ("'x'", "also Emotion: 'hapy'", "Sentiment: 'glad'", "EndTime: '0:16'"))
    (one,) = mosei.read(write_mosei(tmp_path / "mosei", [mosei_row(mode="trian", label="4", text=" ")])).quarantined
    assert all(part in one.detail for part in ("'trian'", "also text: ", "also label: '4'"))
    listed = [ecf_conversation(1, conversation=[ecf_utterance(1, emotion=3, text="", speaker=None)], **NO_PAIRS)]
    (one,) = ecf.read_split(write_ecf(tmp_path / "ecf", listed) / "Subtask_2_train.json", "train").quarantined
    assert all(part in one.detail for part in ("'' has no visible character", "also speaker: None", "also emotion: 3"))


def test_every_line_with_a_bad_byte_is_listed(tmp_path: Path) -> None:
    path = write_meld(tmp_path) / "dev_sent_emo.csv"
    path.write_bytes(path.read_bytes() + b"\xff\nfine\nab\xe9\n")
    with pytest.raises(UserError, match=r"2 bad row\(s\)") as caught:
        meld.read(tmp_path)
    assert "byte 0xff at offset" in str(caught.value)
    assert "(line 3)" in str(caught.value)
    assert "byte 0xe9 at offset" in str(caught.value)
    assert "(line 5)" in str(caught.value)


def test_a_file_of_another_kind_is_told_from_a_lost_column(tmp_path: Path) -> None:
    (write_meld(tmp_path) / "dev_sent_emo.csv").write_text('[{"conversation_ID": 1}]', "utf-8")
    with pytest.raises(UserError, match=r"dev_sent_emo\.csv:1: is not a CSV file with the header Utterance,Speaker"):
        meld.read(tmp_path)


def test_every_utterance_of_a_repeated_conversation_is_set_aside(tmp_path: Path) -> None:
    listed = [ecf_conversation(1), ecf_conversation(1, length=2)]
    reading = ecf.read_split(write_ecf(tmp_path, listed) / "Subtask_2_train.json", "train")
    assert len(reading.utterances) == 3
    assert [one.source for one in reading.quarantined] == [
        f"Subtask_2_train.json:[1].conversation[{j}]" for j in (0, 1)
    ]
    assert {one.reason for one in reading.quarantined} == {"duplicate-id"}


@pytest.mark.parametrize(
    "item", [None, {}, {"conversation_ID": []}, {"conversation_ID": 1}, {"conversation_ID": 1, "conversation": [[]]}]
)
def test_a_broken_conversation_of_subtask_1_is_set_aside_where_it_stands(tmp_path: Path, item: object) -> None:
    root = write_ecf(tmp_path)
    (root / "Subtask_2_train.json").unlink()
    good = {"conversation_ID": 2, "conversation": [ecf_utterance(1, 2)]}
    (root / "Subtask_1_train.json").write_text(json.dumps([good, item]), "utf-8")
    (root / "all_data_pair.txt").write_text("2 1\n\n1 | Ann | joy | Hi . | Friends_S1E2: 00:00:01.000 - 00:00:02.000\n")
    reading = ecf.read(root)
    assert [one.utterance_id for one in reading.utterances if one.split == "train"] == ["ecf/train/dia2utt1"]
    assert [one.source for one in reading.quarantined] == ["Subtask_1_train.json:[1]"]


def test_a_long_cell_does_not_make_a_long_message(tmp_path: Path) -> None:
    (one,) = meld.read(write_meld(tmp_path, [meld_row(Emotion="x" * 100_000)])).quarantined
    assert len(one.detail) < 1100


def test_a_quotation_mark_out_of_place_costs_its_own_row(tmp_path: Path) -> None:
    path = write_meld(tmp_path, [meld_row(), meld_row(Utterance_ID="1"), meld_row(Utterance_ID="2")])
    lines = (path / "train_sent_emo.csv").read_text("utf-8").splitlines()
    lines[2] = lines[2].replace('"Oh, I see."', '"Oh" I see."')
    (path / "train_sent_emo.csv").write_text("\n".join(lines), "utf-8")
    reading = meld.read(path)
    assert [one.source for one in reading.utterances[:2]] == ["train_sent_emo.csv:2", "train_sent_emo.csv:4"]
    (one,) = reading.quarantined
    assert (one.source, one.reason) == ("train_sent_emo.csv:3", "bad-quote")
    assert one.message(Path("x")).startswith("x/train_sent_emo.csv:3: not valid CSV: ")


def test_an_utterance_without_a_number_is_nobody_s_cause(tmp_path: Path) -> None:
    rows = [ecf_utterance(1), ecf_utterance(2, utterance_ID="")]
    listed = [ecf_conversation(1, conversation=rows, **{"emotion-cause_pairs": [["1_joy", "me"]]})]
    reading = ecf.read_split(write_ecf(tmp_path, listed) / "Subtask_2_train.json", "train")
    assert [one.reason for one in reading.quarantined] == ["bad-cause", "bad-number"]


def test_a_split_without_any_clip_is_one_line_that_names_the_folder_and_where_videos_are(tmp_path: Path) -> None:
    root = write_meld(tmp_path, [meld_row(Utterance_ID=str(number)) for number in range(1000)])
    for name in ("dev/dev_splits_complete", "test/output_repeated_splits_test", "somewhere"):
        (root / name).mkdir(parents=True)
        (root / name / "dia0_utt0.mp4").touch()
    with pytest.raises(UserError) as caught:
        make_plan("meld", root, load_params(REPO / "params.yaml").media)
    text = str(caught.value)
    assert "none of the 1000 clips of split train exists" in text
    assert "no folder 'train/train_splits'" in text
    assert "somewhere" in text
    assert len(text) < 500


def test_many_links_out_of_a_corpus_are_the_first_few_and_a_count(tmp_path: Path) -> None:
    root = write_meld(tmp_path / "corpus")
    (tmp_path / "out.csv").touch()
    for number in range(500):
        (root / f"{number:03d}.csv").symlink_to("../out.csv")
    with pytest.raises(UserError, match=r"500 links lead out of the corpus") as caught:
        make_plan("meld", root, load_params(REPO / "params.yaml").media)
    assert len(str(caught.value)) < 1000
