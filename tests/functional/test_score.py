"""``emoverse score`` and ``emoverse compare`` on files made here and elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from emoverse.cli.__init__ import main
from emoverse.errors import RowErrors
from emoverse.evaluation.score_file import compare_files, score_file
from tests.factories.answering import rows_of, utterances, write_rows

SHARED = {"n", "unparsable", "interval", "baseline"}
ANSWERS = {"msa": "Negative.", "mer": "Happy.", "fer": "Cheeks raised", "eri": "She feels joy.", "ecpe": "3_joy,3"}


def swift_rows(task: str, corpus: str, replies, *, key: str = "labels", count: int = 24) -> list[dict]:
    """Make rows as `swift infer` writes them, which knows nothing of ours but the messages and the clip."""
    found = []
    for i, row in enumerate(rows_of(task, utterances(corpus, count))):
        answer = row["messages"][2]["content"]
        reply = replies(i, answer)
        messages = [*row["messages"][:2], {"role": "assistant", "content": reply}]
        clip = f"/data/{row['videos'][0].removeprefix('clip:')}.mp4"
        found.append({"response": reply, key: answer, "logprobs": None, "messages": messages, "videos": [clip]})
    return found


def run(capsys, *words) -> dict:
    assert main(["score", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("key", ["labels", "label"])
def test_files_of_old_and_new_ms_swift_are_scored_alike(tmp_path, capsys, key):
    path = write_rows(tmp_path / "p.jsonl", swift_rows("mer", "meld", lambda i, a: a if i % 2 else "Fear.", key=key))
    found = run(capsys, "--task", "mer", path)
    assert set(found) >= SHARED | {"accuracy", "weighted_f1", "macro_f1"}
    assert found["n"] == 24
    assert found["accuracy"] == pytest.approx(sum(i % 2 or i % 7 == 4 for i in range(24)) / 24, abs=0.1)
    assert found["interval"][0] < found["accuracy"] < found["interval"][1]


def test_cause_pairs_are_scored_the_authors_way_and_the_official_one(tmp_path, capsys):
    path = write_rows(tmp_path / "p.jsonl", swift_rows("ecpe", "ecf", lambda i, a: a))
    found = run(capsys, "--task", "ecpe", path)
    keys = {"authors_f1", "authors_weighted_f1", "official_micro_f1", "official_weighted_f1"}
    assert set(found) >= SHARED | keys
    assert all(found[key] == 1.0 for key in keys)


def test_replies_nobody_can_read_are_counted_and_listed(tmp_path, capsys):
    rows = swift_rows("msa", "meld", lambda i, a: "I cannot say." if i == 3 else a)
    found = run(capsys, "--task", "msa", write_rows(tmp_path / "p.jsonl", rows))
    assert found["unparsable"] == 1
    assert found["unparsable_rows"][0]["reply"] == "I cannot say."
    assert found["accuracy"] == pytest.approx(1 - 1 / found["n"], abs=1e-6)


def test_dialogues_are_resampled_whole(tmp_path, capsys):
    path = write_rows(tmp_path / "p.jsonl", swift_rows("mer", "meld", lambda i, a: a))
    assert run(capsys, "--task", "mer", path)["groups"] == 6


def test_a_person_gets_a_table(tmp_path, capsys):
    path = write_rows(tmp_path / "p.jsonl", swift_rows("mer", "meld", lambda i, a: a))
    assert main(["score", str(path), "--task", "mer"]) == 0
    text = capsys.readouterr().out
    assert "accuracy 1.0000, 95 % interval 1.0000 to 1.0000, best baseline" in text


def test_a_file_without_the_gold_is_held_against_a_test_set(tmp_path, capsys):
    rows = rows_of("mer", utterances("meld", 12))
    gold = write_rows(tmp_path / "meld-mer.jsonl", rows)
    predictions = [
        {"channel": row["channel"], "labels": row["gold"]["answer"], "response": "Joy."} for row in reversed(rows)
    ]
    found = run(capsys, "--task", "mer", write_rows(tmp_path / "p.jsonl", predictions), "--gold", gold)
    assert found["n"] == 12
    assert found["accuracy"] == pytest.approx(sum(row["gold"]["answer"] == "Joy." for row in rows) / 12, abs=1e-6)


def test_a_better_model_is_found_better_and_a_model_no_better_than_itself(tmp_path):
    good = write_rows(tmp_path / "good.jsonl", swift_rows("mer", "meld", lambda i, a: a if i % 8 else "Joy.", count=80))
    poor = write_rows(tmp_path / "poor.jsonl", swift_rows("mer", "meld", lambda i, a: a if i % 2 else "Joy.", count=80))
    found = compare_files(poor, good, "mer", bootstrap=300)
    assert found["interval"][0] > 0
    assert found["difference"] == pytest.approx(found["other"] - found["one"], abs=2e-6)
    same = compare_files(good, good, "mer", bootstrap=300)
    assert (same["difference"], same["interval"], same["not_better"]) == (0.0, [0.0, 0.0], 1.0)


def test_two_files_are_compared_on_the_command_line(tmp_path, capsys):
    good = write_rows(tmp_path / "good.jsonl", swift_rows("mer", "meld", lambda i, a: a if i % 8 else "Joy.", count=80))
    poor = write_rows(tmp_path / "poor.jsonl", swift_rows("mer", "meld", lambda i, a: a if i % 2 else "Joy.", count=80))
    words = ["compare", str(poor), str(good), "--task", "mer", "--bootstrap", "200"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    low, high = found["interval"]
    assert 0 < low < found["difference"] < high
    assert main(words) == 0
    assert f"accuracy: A {found['one']:.4f}, B {found['other']:.4f}, on 80 records" in capsys.readouterr().out


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    rows = swift_rows("mer", "meld", lambda i, a: a)
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    one, other = write_rows(tmp_path / "ours/mer.jsonl", rows), write_rows(tmp_path / "theirs/mer.jsonl", rows[1:])
    with pytest.raises(RowErrors) as caught:
        compare_files(one, other, "mer")
    (problem,) = caught.value.problems
    assert problem.startswith(f"{one}:1: ")


def test_a_corpus_that_is_unknown_or_not_the_rows_own_is_refused(tmp_path, capsys):
    rows = [
        {**row, "response": "Joy.", "labels": row["gold"]["answer"]} for row in rows_of("mer", utterances("meld", 6))
    ]
    path = write_rows(tmp_path / "p.jsonl", rows)
    assert main(["score", str(path), "--task", "mer", "--corpus", "mozei"]) == 2
    assert "did you mean 'mosei'?" in capsys.readouterr().err
    assert main(["score", str(path), "--task", "mer", "--corpus", "mosei"]) == 2
    assert "a row of meld-mer in a file scored as mosei-mer" in capsys.readouterr().err
    assert main(["score", str(path), "--task", "mer", "--corpus", "meld"]) == 0


def test_the_interval_of_a_difference_is_narrower_than_two_models_own(tmp_path):
    rows = swift_rows("mer", "meld", lambda i, a: a if i % 3 else "Joy.", count=80)
    one = write_rows(tmp_path / "one.jsonl", rows)
    other = write_rows(
        tmp_path / "other.jsonl", [{**row, "response": "Joy."} if i == 7 else row for i, row in enumerate(rows)]
    )
    found, alone = compare_files(one, other, "mer", bootstrap=300), score_file(one, "mer", bootstrap=300)
    low, high = alone["interval"]
    assert found["interval"][1] - found["interval"][0] < (high - low) / 2


def test_rows_that_nothing_tells_apart_are_compared_line_by_line(tmp_path):
    answers = ["Joy.", "Fear.", "Anger.", "Joy."]
    right = [{"labels": answer, "response": answer} for answer in answers]
    wrong = [{**row, "response": "Neutral."} if i == 1 else row for i, row in enumerate(right)]
    one, other = write_rows(tmp_path / "one.jsonl", wrong), write_rows(tmp_path / "other.jsonl", right)
    assert compare_files(one, other, "mer", bootstrap=50)["difference"] == 0.25
    turned = write_rows(tmp_path / "turned.jsonl", right[1:] + right[:1])
    with pytest.raises(RowErrors, match="another answer at"):
        compare_files(one, turned, "mer", bootstrap=50)


def test_a_file_of_the_trainer_without_our_ids_is_held_against_our_test_set(tmp_path, capsys):
    gold = write_rows(tmp_path / "meld-mer.jsonl", rows_of("mer", utterances("meld", 12)))
    path = write_rows(tmp_path / "p.jsonl", swift_rows("mer", "meld", lambda i, a: a, count=12))
    found = run(capsys, "--task", "mer", path, "--gold", gold)
    assert (found["n"], found["groups"], found["accuracy"]) == (12, 3, 1.0)


@pytest.mark.parametrize("task", ANSWERS)
def test_every_task_says_how_sure_it_is_and_what_a_trivial_predictor_gets(tmp_path, capsys, task):
    answer = ANSWERS[task]
    rows = [{"labels": answer, "response": answer if i % 2 else "?"} for i in range(20)]
    found = run(capsys, "--task", task, write_rows(tmp_path / "p.jsonl", rows))
    assert set(found) >= SHARED
    assert (found["n"], found["unparsable"]) == (20, 10)
    low, high = found["interval"]
    assert 0 <= low < found[found["headline"]] < high <= 1
    assert 0 < found["baseline"] <= 1


def test_a_cause_named_where_there_is_none_costs_officially_and_not_in_the_authors_scores(tmp_path):
    query = "\nTarget utterance:2_joy. Ada: yes\n"
    rows = [
        {"query": query, "videos": [f"a/dia{i}utt2.mp4"], "labels": answer, "response": "2_joy,1"}
        for i, answer in enumerate(["2_joy,1", ""])
    ]
    found = score_file(write_rows(tmp_path / "p.jsonl", rows), "ecpe", bootstrap=10)
    assert (found["n"], found["scored"], found["authors_f1"]) == (2, 1, 1.0)
    assert found["official_micro_f1"] == pytest.approx(2 / 3, abs=1e-6)


def test_scores_do_not_depend_on_the_order_of_rows(tmp_path):
    rows = swift_rows("mer", "meld", lambda i, a: a if i % 3 else "Joy.")
    one = score_file(write_rows(tmp_path / "a.jsonl", rows), "mer")
    other = score_file(write_rows(tmp_path / "b.jsonl", rows[::-1]), "mer")
    assert {k: v for k, v in one.items() if k not in ("interval", "intervals")} == {
        k: v for k, v in other.items() if k not in ("interval", "intervals")
    }


def test_a_reply_that_no_terminal_can_show_is_printed_as_json_writes_it(tmp_path):
    row = '{"labels": "Joy.", "response": "\\ud800"}\n'
    (tmp_path / "p.jsonl").write_text(row, "utf-8")
    command = [sys.executable, "-m", "emoverse.cli", "score", str(tmp_path / "p.jsonl"), "--task", "mer", "--json"]
    done = subprocess.run([*command, "--bootstrap", "5"], capture_output=True, check=True)
    assert json.loads(done.stdout)["unparsable_rows"] == [{"row": "p.jsonl:1", "reply": "\ud800"}]


def warnings_of(capsys, *arguments) -> list[str]:
    assert main([*map(str, arguments), "--bootstrap", "10"]) == 0
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]


FLAWED = {"unparsable": "I cannot say.", "ambiguous": "Joy or maybe fear", "repeated": "joy joy joy joy joy joy"}


@pytest.mark.parametrize(("count", "warned"), [(0, False), (1, False), (2, False), (3, True), (40, True)])
def test_above_five_percent_of_unparsable_replies_three_are_shown_on_stderr(tmp_path, capsys, count, warned):
    rows = swift_rows("mer", "meld", lambda i, a: f"I cannot say, {i}." if i < count else a, count=40)
    path = write_rows(tmp_path / "p.jsonl", rows)
    warnings = warnings_of(capsys, "score", path, "--task", "mer")
    assert len(warnings) == warned  # 2 of 40 replies are 5 %, not more
    for warning in warnings:
        assert f"{count / 40:.1%} of the replies are unparsable, for example" in warning
        assert [f"I cannot say, {i}." in warning for i in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("flaw", FLAWED)
def test_every_flaw_has_its_warning_in_score_and_compare(tmp_path, capsys, flaw):
    flawed = swift_rows("mer", "meld", lambda i, a: FLAWED[flaw] if i < 6 else a)
    right = write_rows(tmp_path / "right.jsonl", swift_rows("mer", "meld", lambda i, a: a))
    path = write_rows(tmp_path / "flawed.jsonl", flawed)
    warnings = warnings_of(capsys, "score", path, "--task", "mer")
    assert any(f"25.0% of the replies are {flaw}" in warning for warning in warnings)
    assert all(warning.count(repr(FLAWED[flaw])) == 3 for warning in warnings)
    assert warnings_of(capsys, "score", right, "--task", "mer") == []
    compared = warnings_of(capsys, "compare", right, path, "--task", "mer")
    assert compared
    assert all("flawed.jsonl: 25.0% of the replies are" in warning for warning in compared)


@pytest.mark.parametrize("task", ANSWERS)
def test_replies_without_an_answer_are_warned_of_for_every_task(tmp_path, capsys, task):
    rows = [{"labels": ANSWERS[task], "response": "<think>who knows"} for _ in range(20)]
    warnings = warnings_of(capsys, "score", write_rows(tmp_path / "p.jsonl", rows), "--task", task)
    assert any("100.0% of the replies are unparsable" in warning for warning in warnings)
