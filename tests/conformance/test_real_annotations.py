"""Hold the readers, the published format and the audits to the real annotation files, where they are at hand."""

import csv
import hashlib
import json
from collections import Counter
from operator import itemgetter
from pathlib import Path

import pytest

from emoverse.cli.__init__ import main
from emoverse.corpora import Utterance, ecf, meld, mosei
from emoverse.tasks import Context, Question, Skipped, neutralise, task


def questions(name: str, utterances: list[Utterance]) -> list[Question]:
    dialogues: dict[str, list[Utterance]] = {}
    for one in utterances:
        dialogues.setdefault(one.dialogue_id, []).append(one)
    found = [task(name).question(Context(utterance=one, dialogue=dialogues[one.dialogue_id])) for one in utterances]
    return [one for one in found if not isinstance(one, Skipped)]


def test_every_row_of_meld_is_good(shared_data: Path) -> None:
    reading = meld.read(shared_data / "meld")
    assert not reading.quarantined
    assert Counter(one.split for one in reading.utterances) == {"train": 9989, "validation": 1109, "test": 2610}
    assert len({one.dialogue_id for one in reading.utterances if one.split == "train"}) == 1038
    train = Counter(one.emotion for one in reading.utterances if one.split == "train")
    assert train == {
        "neutral": 4710, "joy": 1743, "surprise": 1205, "anger": 1109, "sadness": 683, "disgust": 271, "fear": 268,
    }  # fmt: skip
    spans = {one.utterance_id: round((one.end or 0) - (one.start or 0), 1) for one in reading.utterances}
    assert spans["meld/test/dia38_utt4"] == 304.9
    assert spans["meld/test/dia155_utt3"] == 0.0


def test_every_row_of_ecf_is_good_and_train_is_rebuilt_from_its_two_sources(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "ecf"
    for split, name, rows, pairs in (
        ("train", "Subtask_2_train.rebuilt.json", 13_619, 9794), ("test", "Subtask_2_test.json", 3101, 2462),
    ):  # fmt: skip
        reading = ecf.read_split(folder / name, split)  # type: ignore[arg-type]
        assert not reading.quarantined
        assert (len(reading.utterances), sum(len(one.causes or ()) for one in reading.utterances)) == (rows, pairs)
    for source, name in (
        ("Subtask_1_train.json", "Subtask_1_train.json"), ("Subtask_2_test.json", "Subtask_2_test.json"),
        ("ecf1_all_data_pair.txt", "all_data_pair.txt"),
        ("ecf1_all_data_pair_ECFvsMELD.txt", "all_data_pair_ECFvsMELD.txt"),
    ):  # fmt: skip
        (tmp_path / name).symlink_to(folder / source)
    reading = ecf.read(tmp_path)
    expected = ecf.read_split(folder / "Subtask_2_train.rebuilt.json", "train").utterances
    built = [one for one in reading.utterances if one.split == "train"]
    built.sort(key=lambda one: (int(one.dialogue_id), one.position))  # subtask 1 is in no order
    assert [(a.utterance_id, a.text, a.causes, a.start, a.end) for a in built] == [
        (b.utterance_id, b.text, b.causes, b.start, b.end) for b in expected
    ]
    assert sum(one.clip.startswith("MELD/") for one in built) == 13_389
    rebuilt = ecf.rebuild_subtask_2(ecf.load(folder / "Subtask_1_train.json"), folder / "ecf1_all_data_pair.txt")
    listed = json.loads((folder / "Subtask_2_train.rebuilt.json").read_text("utf-8"))
    assert sorted(rebuilt, key=itemgetter("conversation_ID")) == listed


def test_ecf_train_gives_7690_targets_609_of_them_without_a_cause(shared_data: Path) -> None:
    found = questions("ecpe", ecf.read_split(shared_data / "ecf/Subtask_2_train.rebuilt.json", "train").utterances)
    assert (len(found), sum(not one.answer for one in found)) == (7690, 609)


def test_the_real_transcripts_hold_no_placeholder(shared_data: Path) -> None:
    texts = [one.text for one in meld.read(shared_data / "meld").utterances]
    texts += [one.text for one in ecf.read_split(shared_data / "ecf/Subtask_2_test.json", "test").utterances]
    assert [text for text in texts if neutralise(text) != text] == []


@pytest.fixture
def labelled(shared_data: Path, tmp_path: Path) -> list[Utterance]:
    with (shared_data / "mosei/sentiment_labels.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    with (tmp_path / "label.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, [*rows[0], "text"])
        writer.writeheader()
        writer.writerows({**row, "text": "THE REAL WORDS ARE NOT HERE"} for row in rows)
    reading = mosei.read(tmp_path)
    assert not reading.quarantined
    return reading.utterances


def test_every_row_of_mosei_is_good_and_always_positive_has_its_known_scores(labelled: list[Utterance]) -> None:
    signs = Counter((one.split, one.polarity) for one in labelled)
    assert signs == {
        ("train", "negative"): 4738, ("train", "neutral"): 3540, ("train", "positive"): 8048,
        ("validation", "negative"): 506, ("validation", "neutral"): 433, ("validation", "positive"): 932,
        ("test", "negative"): 1350, ("test", "neutral"): 1025, ("test", "positive"): 2284,
    }  # fmt: skip
    assert sum(one.dialogue_id.isdigit() for one in labelled) == 6920
    assert sum(one.dialogue_id.startswith("-") for one in labelled) == 215
    golds = [one.gold for one in questions("msa", [one for one in labelled if one.split == "test"])]
    scorer = task("msa").scorer(golds)
    scores = scorer.scores(scorer.counts(["Positive."] * len(golds)).sum(0))
    known = {
        "accuracy/non_neg": 0.7102,
        "weighted_f1/non_neg": 0.5899,
        "accuracy/pos_neg": 0.6285,
        "weighted_f1/pos_neg": 0.4851,
    }
    assert {name: round(float(scores[name]), 4) for name in known} == known


def test_the_published_meld_test_set_comes_out_byte_for_byte(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "meld.json"
    assert (
        main(
            [
                "published",
                "meld",
                "--annotations",
                str(shared_data / "meld/test_sent_emo.csv"),
                "--split",
                "test",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert out.read_bytes() == (shared_data / "amt/meld_test_data.json").read_bytes()


def test_the_published_ecf_test_set_comes_out_byte_for_byte(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "ecf.json"
    assert (
        main(
            [
                "published",
                "ecf",
                "--annotations",
                str(shared_data / "ecf/Subtask_2_test.json"),
                "--split",
                "test",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    raw = out.read_bytes()
    assert len(raw) == 3_474_577
    assert hashlib.sha256(raw).hexdigest() == "f357bb0a2a3f252f96c128968cfe8aed39df54a042352c9e16fe3c9db5d746b7"
    first = json.loads((shared_data / "amt/ecf2_caption_test.first20.json").read_text("utf-8"))
    assert json.loads(raw)[:20] == first
    assert sum(one["response"] == "" for one in json.loads(raw)) == 75


def test_the_audit_finds_what_was_measured(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared_data / "ecf"
    command = [
        "audit",
        "--meld",
        str(shared_data / "meld"),
        "--ecf-train",
        str(folder / "Subtask_2_train.rebuilt.json"),
    ]
    assert main([*command, "--ecf-mapping", str(folder / "ecf1_all_data_pair_ECFvsMELD.txt"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    leakage, conflicts = report["leakage"], report["conflicts"]
    assert leakage["meld_utterances"] == {"train": 9776, "validation": 1078, "test": 2535}
    assert leakage["meld_test_utterances"] == 2535
    assert (leakage["dropped_conversations"], leakage["kept_conversations"]) == (262, 1112)
    assert (leakage["kept_targets"], leakage["kept_targets_with_cause"]) == (6237, 5729)
    assert (conflicts["shared_utterances"], conflicts["different_emotion"]) == (13_389, 2375)
    assert list(conflicts["commonest"].items())[:3] != []
    assert conflicts["commonest"]["neutral -> joy"] == 394
    assert conflicts["commonest"]["joy -> neutral"] == 279
    assert len(conflicts["listed"]) == 2375
    assert leakage["without_mapping"]["by_time"] >= 2450


@pytest.mark.parametrize(
    ("predictor", "scores"),
    [
        ("gold", (1.0, 1.0, 1.0, 1.0)),
        ("target itself", (0.5784, 0.5769, 0.5683, 0.5672)),
        ("previous + target", (0.6650, 0.6645, 0.6501, 0.6498)),
    ],
)
def test_trivial_predictors_of_causes_have_their_known_scores(
    shared_data: Path, predictor: str, scores: tuple[float, ...]
) -> None:
    found = questions("ecpe", ecf.read_split(shared_data / "ecf/Subtask_2_test.json", "test").utterances)
    golds, ecpe = [one.gold for one in found], task("ecpe")
    replies = {"gold": [one.answer for one in found], **ecpe.baselines(golds, Counter())}[predictor]
    scorer = ecpe.scorer(golds)
    found = scorer.scores(scorer.counts(replies).sum(0))
    names = ("authors_f1", "authors_weighted_f1", "official_micro_f1", "official_weighted_f1")
    assert tuple(round(float(found[name]), 4) for name in names) == scores


def test_always_neutral_has_its_known_scores_on_meld(shared_data: Path) -> None:
    train, test = (
        questions("mer", meld.read_split(shared_data / f"meld/{name}_sent_emo.csv", "test").utterances)
        for name in ("train", "test")
    )
    mer, golds = task("mer"), [one.gold for one in test]
    replies = mer.baselines(golds, Counter(one.answer for one in train))["majority"]
    assert set(replies) == {"Neutral."}
    scorer = mer.scorer(golds)
    found = scorer.scores(scorer.counts(replies).sum(0))
    assert (round(float(found["accuracy"]), 4), round(float(found["weighted_f1"]), 4)) == (0.4812, 0.3127)
