"""Predictions files that cannot be trusted are refused, with the list of what is wrong."""

from __future__ import annotations

import pytest

from emoverse.cli.__init__ import main
from emoverse.errors import RowErrors, UserError
from emoverse.evaluation.predictions import read_predictions
from emoverse.evaluation.score_file import compare_files, score_file
from tests.factories.answering import rows_of, utterances, write_rows

ROWS = rows_of("mer", utterances("meld", 8))
NO_ANSWERS = {"answer": "Negative.", "answers": None}


def prediction_rows(rows, reply="Joy."):
    return [{"channel": row["channel"], "labels": row["gold"]["answer"], "response": reply} for row in rows]


@pytest.fixture
def gold(tmp_path):
    return write_rows(tmp_path / "gold.jsonl", ROWS)


def problems(tmp_path, rows, gold=None, task="mer"):
    with pytest.raises(RowErrors) as caught:
        read_predictions(write_rows(tmp_path / "p.jsonl", rows), task, gold=gold)
    return caught.value.problems


def test_missing_and_foreign_rows_are_all_listed(tmp_path, gold):
    strange = rows_of("mer", utterances("meld", 10))[8:]
    found = problems(tmp_path, prediction_rows(ROWS[2:] + strange), gold)
    assert found == [
        "p.jsonl:7: mer/meld/test/dia2_utt1: not a record of the gold file",
        "p.jsonl:8: mer/meld/test/dia2_utt2: not a record of the gold file",
        "gold.jsonl:1: mer/meld/test/dia0_utt1: has no prediction",
        "gold.jsonl:2: mer/meld/test/dia0_utt2: has no prediction",
    ]


def test_a_row_answered_twice_is_refused_with_both_places(tmp_path, gold):
    rows = prediction_rows([*ROWS, ROWS[3]])
    expected = ["p.jsonl:9: mer/meld/test/dia0_utt4: answered at p.jsonl:4 already"]
    assert problems(tmp_path, rows, gold) == expected
    assert problems(tmp_path, rows) == expected


def test_a_row_without_id_answered_twice_is_known_by_clip_and_question(tmp_path):
    row = {"query": "<video>What?", "videos": ["a/dia0_utt1.mp4"], "labels": "Joy.", "response": "Joy."}
    assert len(problems(tmp_path, [row, {**row, "query": "What?", "response": "Fear."}])) == 1


def test_a_changed_gold_answer_is_refused_with_both_answers(tmp_path, gold):
    rows = prediction_rows(ROWS)
    rows[1]["labels"] = "Fear."
    found = problems(tmp_path, rows, gold)
    assert len(found) == 1
    assert "'Neutral.'" in found[0]
    assert "'Fear.'" in found[0]


def test_a_label_that_contradicts_its_own_gold_is_refused(tmp_path):
    row = {**prediction_rows(ROWS)[0], "gold": ROWS[0]["gold"], "labels": "Fear."}
    assert "its own gold says" in problems(tmp_path, [row])[0]


def test_another_tasks_file_is_refused(tmp_path):
    rows = prediction_rows(rows_of("msa", utterances("meld", 8)))
    assert problems(tmp_path, rows)[0] == "p.jsonl:1: a row of meld-msa in a file scored as meld-mer"
    nameless = [{key: row[key] for key in ("labels", "response")} for row in rows]
    assert "p.jsonl:1: labels: 'Negative.' is not one of Anger." in problems(tmp_path, nameless)[0]
    assert "'Negative.' is not one of Anger." in problems(tmp_path, [{**nameless[0], "gold": NO_ANSWERS}])[0]
    assert "'Negative.' is no answer of task ecpe" in problems(tmp_path, nameless, task="ecpe")[0]


def test_rows_of_another_corpus_are_refused_though_their_labels_are_the_same(tmp_path):
    strange = rows_of("mer", utterances("ecf", 2))
    found = problems(tmp_path, prediction_rows(ROWS + strange))
    assert found == [f"p.jsonl:{n}: a row of ecf-mer in a file scored as meld-mer" for n in (9, 10)]


def test_a_gold_record_changed_behind_an_unchanged_answer_is_refused(tmp_path):
    rows = rows_of("ecpe", utterances("ecf", 8))
    gold = write_rows(tmp_path / "gold.jsonl", rows)
    changed = [{**row, "gold": dict(source["gold"])} for row, source in zip(prediction_rows(rows), rows, strict=True)]
    assert read_predictions(write_rows(tmp_path / "q.jsonl", changed), "ecpe", gold=gold)
    changed[0]["gold"]["previous"] = 7
    assert "gold.previous is" in problems(tmp_path, changed, gold, task="ecpe")[0]


def test_the_same_words_about_clips_nobody_named_are_no_repeats(tmp_path):
    rows = [{"query": "What is it?", "labels": "Joy.", "response": "Joy."}] * 3
    assert len(read_predictions(write_rows(tmp_path / "p.jsonl", rows), "mer")) == 3


def test_rows_that_nothing_tells_apart_are_not_held_against_a_gold_file(tmp_path, gold):
    rows = [{"labels": "Joy.", "response": "Joy."}] * 8
    with pytest.raises(RowErrors, match=r"p\.jsonl:2: has the same key as p\.jsonl:1"):
        read_predictions(write_rows(tmp_path / "p.jsonl", rows), "mer", gold=gold)


def test_a_gold_that_says_only_its_answer_is_completed(tmp_path):
    row = {"response": "Joy.", "gold": {"answer": "Joy."}}
    assert score_file(write_rows(tmp_path / "p.jsonl", [row]), "mer", bootstrap=2)["accuracy"] == 1.0


def test_broken_json_and_rows_without_reply_or_answer_are_all_listed(tmp_path):
    path = write_rows(tmp_path / "p.jsonl", [*prediction_rows(ROWS[:1]), {"response": "Joy."}, {"labels": "Joy."}])
    path.write_text(path.read_text("utf-8") + '{"response": \n[1]\n', "utf-8")
    with pytest.raises(RowErrors) as caught:
        read_predictions(path, "mer")
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [f"p.jsonl:{n}" for n in (2, 3, 4, 5)]


def test_a_truncated_last_line_is_refused(tmp_path, gold):
    path = write_rows(tmp_path / "p.jsonl", prediction_rows(ROWS))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RowErrors, match=r"p\.jsonl:8: not valid JSON"):
        read_predictions(path, "mer", gold=gold)


@pytest.mark.parametrize(("content", "words"), [(b"", "holds no prediction"), (b"\xff\xfe\n", "not UTF-8")])
def test_an_empty_or_binary_file_is_one_clear_line(tmp_path, capsys, content, words):
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    assert main(["score", str(path), "--task", "mer"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_missing_file_and_an_unknown_task_are_one_clear_line(tmp_path, capsys):
    assert main(["score", str(tmp_path / "none.jsonl"), "--task", "mer"]) == 2
    assert "none.jsonl: no such file" in capsys.readouterr().err
    path = write_rows(tmp_path / "p.jsonl", prediction_rows(ROWS))
    assert main(["score", str(path), "--task", "mre"]) == 2
    assert "did you mean 'mer'?" in capsys.readouterr().err


def test_files_of_different_records_are_not_compared(tmp_path):
    one, other = (
        write_rows(tmp_path / "a.jsonl", prediction_rows(ROWS)),
        write_rows(tmp_path / "b.jsonl", prediction_rows(ROWS[1:])),
    )
    with pytest.raises(RowErrors, match=r"a\.jsonl:1: .*not in the other file"):
        compare_files(one, other, "mer")


def test_every_odd_reply_is_wrong_and_none_is_dropped(tmp_path):
    odd = ["", " ", "joyless?", "ジョイ", "<script>", "Positive.", "x" * 10_000, "not joy, not fear"]
    rows = [{**row, "response": reply} for row, reply in zip(prediction_rows(ROWS), odd, strict=True)]
    found = score_file(write_rows(tmp_path / "p.jsonl", rows), "mer", bootstrap=10)
    assert (found["n"], found["unparsable"], found["accuracy"]) == (8, 8, 0.0)


def test_labels_of_two_corpora_are_not_mixed(tmp_path):
    rows = [{**row, "gold": one["gold"]} for row, one in zip(prediction_rows(ROWS), ROWS, strict=True)]
    rows[0]["gold"] = {**rows[0]["gold"], "answers": [*rows[0]["gold"]["answers"], "Happy."]}
    with pytest.raises(UserError, match="different label sets"):
        read_predictions(write_rows(tmp_path / "p.jsonl", rows), "mer")


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("messages", "What?", "messages: not a list"),
        ("messages", [{"role": "user"}], "messages: not a list"),
        ("videos", 5, "videos: neither a path"),
        ("images", [{"path": 3}], "images: neither a path"),
        ("query", ["What?"], "query: ['What?'] is not a string"),
        ("gold", "Joy.", "gold: not an object"),
        ("gold", {"answers": "Neutral."}, "gold.answers: 'Neutral.' has not the type"),
        ("gold", {"answers": [1]}, "gold.answers: [1] has not the type"),
        ("gold", {"group": {"dialogue": 1}}, "gold.group"),
        ("labels", 3, "labels: no right answer"),
        ("response", 3, "response: no reply"),
        ("response", None, "response: no reply"),
    ],
)
def test_a_row_of_another_shape_is_listed_and_stops_nothing_else(tmp_path, key, value, named):
    rows = prediction_rows(ROWS)
    rows[2][key] = {"answer": rows[2]["labels"], **value} if isinstance(value, dict) else value
    found = problems(tmp_path, rows)
    assert len(found) == 1
    assert found[0].startswith(f"p.jsonl:3: {named}")


def test_clues_that_are_no_list_are_listed(tmp_path):
    found = [{"response": "Joy.", "gold": {"answer": "She feels joy.", "clues": None}}]
    assert (
        problems(tmp_path, found, task="eri")[0] == "p.jsonl:1: gold.clues: None has not the type that the task expects"
    )


def test_one_path_instead_of_a_list_of_paths_names_the_clip(tmp_path):
    rows = [{"videos": f"a/dia0_utt{n}.mp4", "labels": "Joy.", "response": "Joy."} for n in range(3)]
    assert [one.name for one in read_predictions(write_rows(tmp_path / "p.jsonl", rows), "mer")] == [
        row["videos"] for row in rows
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    path = write_rows(tmp_path / "p.jsonl", prediction_rows(ROWS))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_predictions(path, "mer")) == len(ROWS)


@pytest.mark.parametrize(
    ("text", "named"),
    [("null", "no JSON list"), ('{"a": 1}', "no JSON list"), ("[5]", "gold.json:1: not a JSON object"),
     ("[{}]", "gold.json:1: gold: no right answer"), ("[" * 100_000, "not valid JSON")],
)  # fmt: skip
def test_a_gold_file_that_is_none_is_one_clear_line(tmp_path, capsys, text, named):
    path, gold = write_rows(tmp_path / "p.jsonl", prediction_rows(ROWS)), tmp_path / "gold.json"
    gold.write_text(text, "utf-8")
    assert main(["score", str(path), "--task", "mer", "--gold", str(gold)]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("options", [["--gold", "."], []])
def test_a_folder_instead_of_a_file_is_one_clear_line(tmp_path, capsys, options):
    path = write_rows(tmp_path / "p.jsonl", prediction_rows(ROWS)) if options else tmp_path
    assert main(["score", str(path), "--task", "mer", *options]) == 2
    assert "cannot be read (Is a directory)" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--bootstrap=0", "--bootstrap=-5", "--bootstrap=1.5", "--seed=-1", "--seed=x"])
def test_a_number_that_makes_no_sense_is_refused_with_the_usage(tmp_path, capsys, option):
    path = write_rows(tmp_path / "p.jsonl", prediction_rows(ROWS))
    with pytest.raises(SystemExit) as caught:
        main(["score", str(path), "--task", "mer", option])
    assert caught.value.code == 2
    assert "is not a whole number from" in capsys.readouterr().err
