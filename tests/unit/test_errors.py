"""A user error names the place, the problem and the remedy."""

from emoverse.errors import RowErrors, UserError, did_you_mean


def test_a_user_error_reads_place_then_problem_then_remedy() -> None:
    error = UserError("Emotion 'hapy' is not known", place="train.csv:412", remedy="write 'joy'")
    assert str(error) == "train.csv:412: Emotion 'hapy' is not known; write 'joy'"


def test_a_user_error_without_place_or_remedy_is_its_problem() -> None:
    assert str(UserError("the disk is full")) == "the disk is full"


def test_row_errors_show_the_first_twenty_and_count_the_others() -> None:
    error = RowErrors([f"a.csv:{n}: label: odd" for n in range(1, 25)], remedy="correct them")
    lines = str(error).splitlines()
    assert lines[0] == "24 bad row(s):"
    assert lines[1].strip() == "a.csv:1: label: odd"
    assert lines[20].strip() == "a.csv:20: label: odd"
    assert lines[21].strip() == "... and 4 more; correct them"
    assert len(error.problems) == 24


def test_a_near_word_is_suggested_and_a_far_one_gets_the_whole_list() -> None:
    assert did_you_mean("hapy", ["happy", "sad"]) == "did you mean 'happy'?"
    assert did_you_mean("xyzzy", ["sad", "joy"]) == "known: joy, sad"
